// Iterations of a small problem: gpukm.core.lloyd.iterate, to the bit.
#pragma once
#include "batch_rows.cuh"

// Centroids, and integer sums of their rows as of update.cu; in global memory, where the hardware adds 64 bits at once.
struct Clusters {
  int k, size;  // and the power of two not below k
  wide_t* centers;
  long long *high, *low, *counts, *weight_high, *weight_low;
  int *empty, *moved;  // clusters, and the rows that go there

  // Shared memory holds `room` centroids, from `first` on if that is not negative.
  int room, first;
};

// Dynamic shared memory: numbers of the clusters to be folded, and centroids.
__device__ inline double* tree() {
  GPUKM_SHARED(double, shared);
  return shared;
}
__device__ inline wide_t* tile_of(const Clusters& c) {
  GPUKM_SHARED(double, shared);
  return reinterpret_cast<wide_t*>(shared + c.size);
}

// Scores of float32 rows: squared differences in float32. kernels/README.md has the bound, which float64 would not
// need.
constexpr bool kScreens = sizeof(wide_t) == 4;
constexpr int kCenters = 4;
struct Margins {
  float less, more, tiny;
  __device__ explicit Margins(int d) {
    const double exact = double(d / 8 + 8) * 0x1p-53;
    const double by_score = 1.0625 * double(d + 8) * 0x1p-24 * (1 + 0x1p-6) + 2 * exact;
    less = float(1 - by_score), more = float(1 + by_score), tiny = float(double(d + 8) * 0x1p-126);
  }
};

// Scores of a row against up to kCenters centroids that follow each other.
__device__ inline void scores(const wide_t* column, int n, const wide_t* c, int count, int d, float (&s)[kCenters]) {
  const wide_t* at[kCenters];
#pragma unroll
  for (int l = 0; l < kCenters; ++l) s[l] = 0.0f, at[l] = c + min(l, count - 1) * d;
  for (int f = 0; f < d; ++f) {
    const wide_t x = column[f * n];
#pragma unroll
    for (int l = 0; l < kCenters; ++l) {
      const float difference = float(x - at[l][f]);
      s[l] = fmaf(difference, difference, s[l]);
    }
  }
}

// Brings centroids from `first` on to shared memory, and tells how many.
__device__ inline int load(Clusters& c, int first, int d) {
  const int count = min(c.room, c.k - first);
  if (c.first == first) return count;
  __syncthreads();
  for (int v = threadIdx.x; v < count * d; v += blockDim.x) tile_of(c)[v] = c.centers[first * d + v];
  __syncthreads();
  c.first = first;
  return count;
}

// Takes a row from a cluster to another, of which either may be -1; of its features the first and every `step`-th.
__device__ __noinline__ void move(const Rows& rows, const Clusters& c, int i, int from, int to, int first, int step) {
  const double w = rows.weight ? rows.weight[i] : 1.0;
  long long high, low;
  if (first == 0) {
    split(w * rows.weight_scale, &high, &low);
    if (to >= 0) {
      add(c.counts + to, 1);
      if (rows.weight) add(c.weight_high + to, high), add(c.weight_low + to, low);
    }
    if (from >= 0) {
      add(c.counts + from, -1);
      if (rows.weight) add(c.weight_high + from, -high), add(c.weight_low + from, -low);
    }
  }
  for (int f = first; f < rows.d; f += step) {
    const double v = double(rows.columns[f * rows.n + i]);
    split((rows.weight ? w * v : v) * rows.scales[f], &high, &low);
    if (to >= 0) add(c.high + to * rows.d + f, high), add(c.low + to * rows.d + f, low);
    if (from >= 0) add(c.high + from * rows.d + f, -high), add(c.low + from * rows.d + f, -low);
  }
}

// Exact labels into `own`; rows whose label is new leave one sum and join another. Returns how many did, and adds to
// *rechecked the rows that scores left to D.
__device__ __noinline__ long long assign(const Rows& rows, Clusters& c, long long* rechecked, Block& block) {
  const int n = rows.n, d = rows.d;
  const Margins margins(d);
  const wide_t* const tile = tile_of(c);
  unsigned long long moved = 0, opened = 0;
  c.first = -1;
  for (int begin = 0; begin < n; begin += blockDim.x) {
    const int i = begin + threadIdx.x;
    const bool there = i < n;
    const wide_t* column = rows.columns + (there ? i : n - 1);
    int label = 0;
    bool open = there && !kScreens;
    float limit = 0.0f;
    if (kScreens) {
      float least = __int_as_float(0x7F800000), next = least;
      for (int first = 0; first < c.k; first += c.room) {
        const int count = load(c, first, d);
        for (int j = 0; j < count; j += kCenters) {
          float s[kCenters];
          scores(column, n, tile + j * d, count - j, d, s);
#pragma unroll
          for (int l = 0; l < kCenters; ++l) {
            if (j + l >= count) continue;
            next = fminf(next, fmaxf(least, s[l]));
            if (s[l] < least) least = s[l], label = first + j + l;
          }
        }
      }
      limit = least * margins.more + margins.tiny;
      // Above, a score may have overflowed whose D is no larger than this bound.
      open = there && !(limit < 0x1p126f && next * margins.less - margins.tiny > limit);
      opened += open;
    }
    // D decides among the centroids that scores leave.
    if (__syncthreads_or(open)) {
      double nearest = infinity();
      for (int first = 0; first < c.k; first += c.room) {
        const int count = load(c, first, d);
        for (int j = 0; open && j < count; ++j) {
          if (kScreens) {
            float s[kCenters];
            scores(column, n, tile + j * d, 1, d, s);
            if (limit < 0x1p126f && s[0] * margins.less - margins.tiny > limit) continue;
          }
          const double v = row_distance(column, n, tile + j * d, d);
          if (v < nearest) nearest = v, label = first + j;
        }
      }
    }
    if (there && rows.own[i] != label) {
      move(rows, c, i, rows.own[i], label, 0, 1);
      rows.own[i] = label;
      ++moved;
    }
  }
  *rechecked += static_cast<long long>(block_sum(opened, block));
  return static_cast<long long>(block_sum(moved, block));
}

// The sum of a feature, rounded once; `any` becomes true where it is not zero.
__device__ inline double sum_of(const Rows& rows, const Clusters& c, int j, int f, bool* any) {
  long long high = c.high[j * rows.d + f], low = c.low[j * rows.d + f];
  carry(&high, &low);
  *any |= (high | low) != 0;
  return rounded(high, low) * rows.units[f];
}
__device__ __noinline__ double weight_of(const Rows& rows, const Clusters& c, int j) {
  if (!rows.weight) return double(c.counts[j]);
  long long high = c.weight_high[j], low = c.weight_low[j];
  carry(&high, &low);
  return rounded(high, low) * rows.weight_unit;
}

// What clusters gained on the spread, eight neighbouring lanes each. Marks in `empty` the clusters without weight, or
// for spherical ones without direction; *n_empty becomes how many.
__device__ inline double weigh(const Rows& rows, const Clusters& c, bool spherical, int* n_empty, Block& block) {
  const int lane = threadIdx.x & 7, groups = blockDim.x >> 3, d = rows.d;
  unsigned long long found = 0;
  for (int begin = 0; begin < c.k; begin += groups) {
    const int at = begin + (threadIdx.x >> 3), j = min(at, c.k - 1);
    const double w = weight_of(rows, c, j);
    double gain = 0.0;
    bool any = false;
    for (int f = lane; f < d; f += 8) {
      const double s = sum_of(rows, c, j, f, &any), r = rows.reference[f], v = double(c.centers[j * d + f]) - r;
      gain += v * (w * v - 2.0 * (s - w * r));
    }
    gain = lane_tree(gain);
    const bool directed = __ballot_sync(kAll, any) >> (threadIdx.x & 24) & 255;
    if (at < c.k && lane == 0) {
      tree()[j] = gain;
      c.empty[j] = w <= 0 || (spherical && !directed);
      found += c.empty[j];
    }
  }
  *n_empty = int(block_sum(found, block));
  return folded(tree(), c.k, c.size);
}

// Mean over features of the weighted variance.
__device__ inline double mean_variance(const Rows& rows, const Clusters& c) {
  for (int f = threadIdx.x; f < rows.d; f += blockDim.x) {
    long long high = 0, low = 0;
    for (int j = 0; j < c.k; ++j) high += c.high[j * rows.d + f], low += c.low[j * rows.d + f];
    carry(&high, &low);
    rows.work[f] = rounded(high, low) * rows.units[f] / rows.total_weight;
  }
  __syncthreads();
  const double v = rows.spread / rows.total_weight - row_distance(rows.work, 1, rows.reference, rows.d);
  return (v < 0 ? 0 : v) / double(rows.d);
}

// The row farthest from its centroid, by `values`, the first of equals; -1 where none is away from it.
__device__ inline int farthest(const Rows& rows, Block& block) {
  unsigned long long most = 0;
  int place = 0x7FFFFFFF;
  for (int i = threadIdx.x; i < rows.n; i += blockDim.x) {
    const unsigned long long bits = rows.values[i] > 0 ? ordered_bits(rows.values[i]) : 0;
    if (bits > most) most = bits, place = i;
  }
  const unsigned long long all = block_most(most, block);
  const int row = block_least(all && most == all ? place : 0x7FFFFFFF, block);
  return all ? row : -1;
}

// Lets empty clusters, in ascending order, take the rows farthest from their centroids; returns how many did.
__device__ inline int fill_empty(const Rows& rows, const Clusters& c, Block& block) {
  for (int i = threadIdx.x; i < rows.n; i += blockDim.x)
    rows.values[i] = times_weight(rows, i, 1.0) > 0
                         ? row_distance(rows.columns + i, rows.n, c.centers + rows.own[i] * rows.d, rows.d)
                         : -1.0;
  int filled = 0;
  for (int j = 0; j < c.k; ++j) {
    if (!c.empty[j]) continue;
    __syncthreads();
    const int row = farthest(rows, block);
    if (row < 0) break;
    move(rows, c, row, rows.own[row], j, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0) rows.values[row] = -1.0, c.moved[filled] = row;
    ++filled;
  }
  __syncthreads();
  return filled;
}
// Undoes it in the sums: labels stayed as they were.
__device__ inline void empty_again(const Rows& rows, const Clusters& c, int filled) {
  for (int j = 0, at = 0; at < filled; ++j)
    if (c.empty[j]) {
      const int row = c.moved[at++];
      move(rows, c, row, j, rows.own[row], threadIdx.x, blockDim.x);
    }
  __syncthreads();
}

// New centroids, rounded once, eight neighbouring lanes each; *same becomes whether every bit stayed. Returns their
// summed squared movement.
__device__ __noinline__ double update(const Rows& rows, const Clusters& c, bool spherical, bool* same) {
  const int lane = threadIdx.x & 7, groups = blockDim.x >> 3, d = rows.d;
  bool differs = false, any = false;
  for (int begin = 0; begin < c.k; begin += groups) {
    const int at = begin + (threadIdx.x >> 3), j = min(at, c.k - 1);
    const double w = weight_of(rows, c, j);
    double divisor = w, shift = 0.0;
    if (spherical) {
      double square = 0.0;
      for (int f = lane; f < d; f += 8) {
        const double s = sum_of(rows, c, j, f, &any);
        square += s * s;
      }
      divisor = sqrt(lane_tree(square));
    }
    for (int f = lane; f < d && at < c.k; f += 8) {
      const wide_t old = c.centers[j * d + f];
      const wide_t now = w > 0 && divisor > 0 ? wide_t(sum_of(rows, c, j, f, &any) / divisor) : old;
      const double difference = double(now) - double(old);
      shift += difference * difference;
      // Zeros of either sign compare equal, and their bits differ.
      differs |= now != old || (now == wide_t(0) && signbit(double(now)) != signbit(double(old)));
      c.centers[j * d + f] = now;
    }
    shift = lane_tree(shift);
    if (at < c.k && lane == 0) tree()[j] = shift;
  }
  *same = !__syncthreads_or(differs);
  return folded(tree(), c.k, c.size);
}
