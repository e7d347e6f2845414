// Group bounds in the manner of Yinyang k-means (Ding et al., ICML 2015): what rows need not be compared with again.
//
// A group is a tile of neighbouring centroids. lower (n, groups) holds what the distance of a row to the group's
// other centroids than its own is at least, in the frame's unit; each iteration lowers it by the group's largest
// step. D to the own centroid is known anew each time. A group may hold the nearest centroid only where its bound is
// not above that: such pairs of a row and a group survive, are listed by group, and scored 64 rows by 64 centroids.
// Rows with a survivor are listed, by whose place in the list everything else is told. kernels/README.md derives the
// bounds.
#include "tile.cuh"

// As large as bounds get: beyond it, scores may have overflowed.
constexpr float kFarthest = 0x1p64f;

// Distances in the frame's unit from D, which errs by `loose` relative to it, and by `tiny` where it underflows.
struct Unit {
  double scale, tiny, loose;

  // Also covers that D to another centroid may come out too small.
  __device__ float at_most(double D) const { return upward(sqrt(D + tiny) * (1 + 2 * loose) * scale); }
  __device__ float at_least(double D) const {
    const double v = sqrt(fmax(D - tiny, 0.0)) * (1 - 2 * loose) * scale;
    return v < kFarthest ? fmaxf(float(v * (1 - 0x1p-22)) - 0x1p-126f, 0.0f) : kFarthest;
  }
};

// At most |x'|^2, from a norm as `round` leaves it.
__device__ inline double least_square(float norm) { return double(norm) * norm * (1 - 0x1p-19) - 0x1p-200; }

// At most the distance of a row to a centroid whose score is at least `score`.
__device__ inline float distance_of(float norm, double score) {
  const double square = least_square(norm) + 2 * score;
  // Not the other way round: what is no number tells nothing.
  return square > 0 ? fminf(float(sqrt(square) * (1 - 0x1p-20)), kFarthest) : 0.0f;
}

// At least the score of what lies within `distance`.
__device__ inline float score_within(float norm, float distance) {
  const double v = 0.5 * (double(distance) * distance - least_square(norm));
  return float(v + fabs(v) * 0x1p-22) + 0x1p-126f;
}

// Integers that order as numbers do, and back.
__device__ inline unsigned ordered(float v) {
  const unsigned bits = static_cast<unsigned>(__float_as_int(v));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float unordered(unsigned v) {
  return __int_as_float(static_cast<int>(v >> 31 ? v & 0x7FFFFFFFu : ~v));
}

// The largest step of each group, a warp a group; shifts are D of what centroids moved.
extern "C" __global__ void steps(const double* shifts, const int* order, double scale, double tiny, double loose,
                                 float* steps, int k, int groups) {
  const Unit unit{scale, tiny, loose};
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (int g = blockIdx.x * warps + (threadIdx.x >> 5); g < groups; g += gridDim.x * warps) {
    float most = 0.0f;
    for (int i = lane; i < kTile; i += 32) {
      const int j = g * kTile + i;
      if (j < k) {
        const double shift = shifts[order[j]];
        if (shift > 0) most = fmaxf(most, unit.at_most(shift));
      }
    }
    for (int step = 16; step > 0; step >>= 1) most = fmaxf(most, __shfl_xor_sync(kAll, most, step));
    if (lane == 0) steps[g] = most;
  }
}

// Lowers all bounds, counts survivors by group, and lists rows that have any; the others keep their labels. Eight
// lanes a row. Of a listed row: limits, what the score of its nearest centroid does not exceed; own, bits of D to
// its centroid.
extern "C" __global__ void look(const row_t* x, const wide_t* c, const int* before, int* labels, const float* steps,
                                float* lower, const float* norms, double scale, double tiny, double loose,
                                long long* listed, unsigned long long* n_listed, unsigned* limits,
                                unsigned long long* own, unsigned long long* best, unsigned char* crowded,
                                unsigned char* asked, int* counts, const int* stop, long long n, int groups, int d) {
  if (*stop) return;
  GPUKM_SHARED(int, survivors);
  for (int g = threadIdx.x; g < groups; g += blockDim.x) survivors[g] = 0;
  __syncthreads();
  const Unit unit{scale, tiny, loose};
  const int lane = threadIdx.x & 31, part = lane & 7, rows = blockDim.x >> 3;
  for GPUKM_SHARE (block, (n + rows - 1) / rows) {
    const long long at = block * rows + (threadIdx.x >> 3), row = at < n ? at : n - 1;
    const int label = before[row];
    const double distance = lane_distance(x + row * d, c + static_cast<long long>(label) * d, d);
    const float upper = unit.at_most(distance);
    bool open = false;
    if (at < n) {
      for (int g = part; g < groups; g += 8) {
        const float bound = fmaxf(__fsub_rd(lower[row * groups + g], steps[g]), 0.0f);
        lower[row * groups + g] = bound;
        if (upper < bound) continue;
        open = true;
        atomicAdd(survivors + g, 1);
      }
    }
    const unsigned any = __ballot_sync(kAll, open);
    const bool listing = part == 0 && (any >> lane & 0xFF);
    const unsigned these = __ballot_sync(kAll, listing);
    unsigned long long first = 0;
    if (lane == 0 && these) first = atomicAdd(n_listed, static_cast<unsigned long long>(__popc(these)));
    first = __shfl_sync(kAll, first, 0);
    if (part == 0 && at < n) labels[row] = label;
    if (listing) {
      const unsigned long long place = first + __popc(these & ((1u << lane) - 1));
      listed[place] = row;
      limits[place] = ordered(score_within(norms[row], upper));
      own[place] = best[place] = ordered_bits(distance);
      crowded[place] = asked[place] = 0;
    }
  }
  __syncthreads();
  for (int g = threadIdx.x; g < groups; g += blockDim.x)
    if (survivors[g]) atomicAdd(counts + g, survivors[g]);
}

// Where each group's survivors go, in whole tiles, one warp: firsts (groups + 2) holds the first tile of each group,
// how many there are, and whether they find no room; then all listed rows are scored against all groups. Counts move
// to sizes.
extern "C" __global__ void line_up(const unsigned long long* n_listed, int* counts, int* sizes, int* cursors,
                                   int* firsts, int room, unsigned long long* scored, int groups) {
  const int lane = threadIdx.x;
  int before = 0;
  unsigned long long pairs = 0;
  for (int base = 0; base < groups; base += 32) {
    const int g = base + lane, size = g < groups ? counts[g] : 0, tiles = (size + kTile - 1) / kTile;
    int up_to = tiles;
    for (int step = 1; step < 32; step <<= 1) {
      const int v = __shfl_up_sync(kAll, up_to, step);
      if (lane >= step) up_to += v;
    }
    if (g < groups) firsts[g] = before + up_to - tiles, sizes[g] = size, counts[g] = cursors[g] = 0;
    before += __shfl_sync(kAll, up_to, 31);
    pairs += warp_sum(static_cast<unsigned long long>(size));
  }
  if (lane == 0) {
    const bool all = before > room;
    firsts[groups] = before, firsts[groups + 1] = all;
    *scored += all ? *n_listed * groups : pairs;
  }
}

// Lists survivors by group; a thread a listed row.
extern "C" __global__ void fill(const long long* listed, const unsigned long long* n_listed,
                                const unsigned long long* own, const float* lower, double scale, double tiny,
                                double loose, const int* firsts, int* cursors, int* survivors, int groups) {
  if (firsts[groups + 1]) return;
  const Unit unit{scale, tiny, loose};
  const long long n = static_cast<long long>(*n_listed);
  const int lane = threadIdx.x & 31;
  for (long long base = static_cast<long long>(blockIdx.x) * blockDim.x + (threadIdx.x & ~31u); base < n;
       base += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long place = base + lane, row = place < n ? listed[place] : 0;
    const float upper = place < n ? unit.at_most(__longlong_as_double(static_cast<long long>(own[place]))) : 0.0f;
    for (int g = 0; g < groups; ++g) {
      const bool survives = place < n && !(upper < lower[row * groups + g]);
      const unsigned these = __ballot_sync(kAll, survives);
      if (!these) continue;
      int first = 0;
      if (lane == 0) first = atomicAdd(cursors + g, __popc(these));
      first = __shfl_sync(kAll, first, 0);
      if (survives)
        survivors[firsts[g] * static_cast<long long>(kTile) + first + __popc(these & ((1u << lane) - 1))] = int(place);
    }
  }
}

// Scores survivors: renews their bounds, and makes pairs of a row and each centroid but its own that may be its
// nearest.
extern "C" __global__ void score(const row_t* x, const double* center, double scale, const float* norms,
                                 const float* residuals, const float* c_values, const float* half_norms,
                                 const float* largest, const float* c_residual, const int* order, float by_product,
                                 float by_norm, float by_row, float tiny, const int* before, const long long* listed,
                                 const unsigned long long* n_listed, const int* firsts, const int* sizes,
                                 const int* survivors, unsigned* limits, float* lower, unsigned char* asked,
                                 int* pair_places, int* pair_centroids, unsigned long long* n_pairs, long long room,
                                 unsigned char* crowded, int groups, int k, int d) {
  __shared__ long long rows[kTile];
  __shared__ int places[kTile];
  const int ty = threadIdx.x >> 4, tx = threadIdx.x & 15;
  const Errors errors{by_product, by_norm, by_row, tiny};
  const bool all = firsts[groups + 1];
  const long long n = static_cast<long long>(*n_listed);
  for GPUKM_SHARE (tile, all ? (n + kTile - 1) / kTile * groups : firsts[groups]) {
    int group = int(tile % groups);
    if (!all) {
      group = 0;
      for (int past = groups; past - group > 1;) {
        const int middle = (group + past) / 2;
        if (firsts[middle] <= tile)
          group = middle;
        else
          past = middle;
      }
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      const long long at = (all ? tile / groups : tile - firsts[group]) * kTile + threadIdx.x;
      int place = -1;
      if (at < (all ? n : sizes[group]))
        place = all ? int(at) : survivors[firsts[group] * static_cast<long long>(kTile) + at];
      places[threadIdx.x] = place;
      rows[threadIdx.x] = place < 0 ? -1 : listed[place];
    }
    __syncthreads();
    float scores[4][4];
    const int first = group * kTile;
    tile_scores(x, center, scale, rows, c_values, half_norms, first, k, d, scores);
    int centroid[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) centroid[j] = first + tx * 4 + j < k ? order[first + tx * 4 + j] : -1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const long long row = rows[ty * 4 + i];
      const int place = places[ty * 4 + i], label = row < 0 ? -1 : before[row];
      const float norm = row < 0 ? 0.0f : norms[row];
      const float error = errors(norm, row < 0 ? 0.0f : residuals[row], largest[group], c_residual[group]);
      float least = infinite();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // What overflowed is no less than the largest number.
        scores[i][j] = fminf(scores[i][j], 0x1.fffffep127f);
        if (centroid[j] >= 0 && centroid[j] != label) least = fminf(least, scores[i][j]);
      }
      for (int step = 8; step > 0; step >>= 1) least = fminf(least, __shfl_xor_sync(kAll, least, step));
      unsigned limit = 0;
      if (row >= 0 && tx == 0) {
        float* const bound = lower + row * groups + group;
        // Both hold.
        *bound = fmaxf(*bound, distance_of(norm, double(least) - double(error)));
        limit = limits[place];
        const float upper = least + error;
        if (upper < unordered(limit)) limit = min(limit, atomicMin(limits + place, ordered(upper)));
        limit = min(limit, ordered(upper < infinite() ? upper : infinite()));
      }
      limit = __shfl_sync(kAll, limit, threadIdx.x & 16);
      if (row < 0) continue;
      const float within = unordered(limit);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // Not the other way round: a bound that is no number excludes nothing.
        if (centroid[j] < 0 || centroid[j] == label || scores[i][j] - error > within) continue;
        const long long at = static_cast<long long>(atomicAdd(n_pairs, 1ull));
        asked[place] = 1;
        if (at < room) {
          pair_places[at] = place, pair_centroids[at] = centroid[j];
        } else {
          crowded[place] = 1;
        }
      }
    }
  }
}

// Listed rows keep their centroid where none of its pairs is nearer, for now at least; counters[1] += rows with pairs.
extern "C" __global__ void claim(const long long* listed, const unsigned long long* n_listed,
                                 const unsigned long long* own, const unsigned long long* best,
                                 const unsigned char* asked, const int* before, int* labels,
                                 unsigned long long* counters) {
  const long long n = static_cast<long long>(*n_listed);
  int rows = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    labels[listed[i]] = best[i] == own[i] ? before[listed[i]] : 0x7FFFFFFF;
    rows += asked[i];
  }
  rows = warp_sum(rows);
  if ((threadIdx.x & 31) == 0 && rows) atomicAdd(counters + 1, static_cast<unsigned long long>(rows));
}

// The centroid that a row has left joins the bound of its group. That of the group that the row came to still counts
// its new centroid, and is below what it could be.
extern "C" __global__ void leave(const long long* listed, const unsigned long long* n_listed,
                                 const unsigned long long* own, const int* before, const int* labels,
                                 const int* group_of, double scale, double tiny, double loose, float* lower,
                                 int groups) {
  const Unit unit{scale, tiny, loose};
  const long long n = static_cast<long long>(*n_listed);
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long row = listed[i];
    const int left = before[row];
    if (labels[row] == left) continue;
    float* const bound = lower + row * groups + group_of[left];
    *bound = fminf(*bound, unit.at_least(__longlong_as_double(static_cast<long long>(own[i]))));
  }
}
