// Sums of all rows, where many moved: rows are sorted by their labels, so that each warp adds up long runs of one cluster
// in registers and few atomics are left. Screens sort rows by their tiles with the same kernels.
//
// Whether that is done may be known on the device alone: *many is above `few`. Otherwise these kernels return at once, and
// `accumulate` of update.cu does the work, which else zeroes the sums. With null these always sort, and it always adds.
#include "sums.cuh"

// Clusters that a block counts in shared memory.
constexpr int kCounted = 4096;
// Rows that a warp adds up, and features that a lane does at a time.
constexpr int kRun = 64, kWide = 4;

// In one block: cursors (k,) become the sums of the sizes before, counts grow by the sizes, and sizes become zero again.
__device__ inline void prefix_sums(int* sizes, int* cursors, long long* counts, int k) {
  __shared__ int sums[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  int done = 0;
  for (int first = 0; first < k; first += blockDim.x) {
    const int j = first + threadIdx.x;
    // What other blocks added lies beyond this processor's cache.
    const int size = j < k ? atomicExch(sizes + j, 0) : 0;
    int upto = size;
    for (int step = 1; step < 32; step <<= 1) {
      const int lower = __shfl_up_sync(kAll, upto, step);
      if (lane >= step) upto += lower;
    }
    if (lane == 31) sums[warp] = upto;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < warps; ++w) {
      if (w < warp) before += sums[w];
      all += sums[w];
    }
    __syncthreads();
    if (j < k) {
      cursors[j] = done + before + upto - size;
      if (counts) counts[j] += size;
    }
    done += all;
  }
}

// cursors (k,): rows of the clusters before, among these n; counts (may be null) grow by each one's own. `before`, if not
// null, becomes the labels, and *moved (may be null) grows by the rows that had another label, or all where it is null.
// sizes (k,) and *done, the blocks that have counted, are zero before and after; the last block lines clusters up.
extern "C" __global__ void __launch_bounds__(1024)
    line_up(const int* labels, int* before, int* sizes, int* done, int* cursors, long long* counts,
            unsigned long long* moved, const unsigned long long* many, unsigned long long few, long long n, int k) {
  if (many && *many <= few) return;
  __shared__ int own[kCounted];
  __shared__ bool last;
  const bool shared = k <= kCounted;
  for (int j = threadIdx.x; shared && j < k; j += blockDim.x) own[j] = 0;
  __syncthreads();
  unsigned long long seen = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const int label = labels[i];
    atomicAdd(shared ? own + label : sizes + label, 1);
    seen += !before || before[i] != label;
    if (before) before[i] = label;
  }
  seen = warp_sum(seen);
  if (moved && (threadIdx.x & 31) == 0 && seen) atomicAdd(moved, seen);
  __syncthreads();
  for (int j = threadIdx.x; shared && j < k; j += blockDim.x)
    if (own[j]) atomicAdd(sizes + j, own[j]);
  __syncthreads();
  if (threadIdx.x == 0) {
    // What the block has added is seen by whoever sees that it is done, and the other way round.
    __threadfence();
    last = atomicAdd(done, 1) == int(gridDim.x) - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  if (threadIdx.x == 0) *done = 0;
  prefix_sums(sizes, cursors, counts, k);
}

// rows (n,): the rows cluster by cluster, in any order within one.
extern "C" __global__ void scatter(const int* labels, int* cursors, int* rows, const unsigned long long* many,
                                   unsigned long long few, long long n, int k) {
  if (many && *many <= few) return;
  __shared__ int own[kCounted];
  const bool shared = k <= kCounted;
  // A block takes rows in pieces, and places for all rows of a piece and a cluster at once.
  const long long piece = 16ll * blockDim.x;
  for (long long first = blockIdx.x * piece; first < n; first += gridDim.x * piece) {
    const long long end = first + piece < n ? first + piece : n;
    if (shared) {
      for (int j = threadIdx.x; j < k; j += blockDim.x) own[j] = 0;
      __syncthreads();
      for (long long i = first + threadIdx.x; i < end; i += blockDim.x) atomicAdd(own + labels[i], 1);
      __syncthreads();
      for (int j = threadIdx.x; j < k; j += blockDim.x)
        if (own[j]) own[j] = atomicAdd(cursors + j, own[j]);
      __syncthreads();
    }
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
      const int label = labels[i];
      rows[atomicAdd(shared ? own + label : cursors + label, 1)] = int(i);
    }
    __syncthreads();
  }
}

// What a lane adds up of rows of one cluster, kWide features of each: the two limbs of every term, as float64 makes them.
struct Limbs {
  double scale[kWide];
  long long high[kWide], low[kWide];

  __device__ Limbs(const double (&scales)[kWide], int) {
#pragma unroll
    for (int q = 0; q < kWide; ++q) scale[q] = scales[q], high[q] = low[q] = 0;
  }
  // The rows that lanes from `i` to `end` hold, of which each feature is at `at`; lanes hold weights where there are any.
  template <int kUsed>
  __device__ void add_rows(const row_t* x, int rows, double weights, bool weighted, int i, int end, long long d,
                           const int (&at)[kWide]) {
#pragma unroll 2
    for (; i < end; ++i) {
      const row_t* const row = x + __shfl_sync(kAll, rows, i) * d;
      const double w = weighted ? __shfl_sync(kAll, weights, i) : 1.0;
#pragma unroll
      for (int q = 0; q < kUsed; ++q) {
        const double v = double(row[at[q]]);
        long long h, l;
        split((weighted ? w * v : v) * scale[q], &h, &l);
        high[q] += h, low[q] += l;
      }
    }
  }
  __device__ void take(int q, long long* h, long long* l) {
    *h = high[q], *l = low[q];
    high[q] = low[q] = 0;
  }
  __device__ void restart() {}
};

// The same of float32 values that all weigh one, |v scale| < 2^top: what is above 2^(top - 22), above 2^(top - 44), and the
// rest, an integer each, the last rounded half to even as the whole would be. What is added to 1.5 2^23 is rounded to an
// integer, whose bits then count from those of that number; products and remainders are exact. For top from 44 to 67,
// and values within what the grid was made for: there is no room beyond.
struct Words {
  static constexpr float kBase = 0x1.8p23f;
  float scale[kWide], last;
  unsigned first[kWide], second[kWide], third[kWide], n = 0;
  int top;

  __device__ Words(const double (&scales)[kWide], int top) : last(ldexpf(1.0f, top - 44)), top(top) {
#pragma unroll
    for (int q = 0; q < kWide; ++q) scale[q] = float(ldexp(scales[q], 22 - top)), first[q] = second[q] = third[q] = 0;
  }
  // Whether values that are multiplied by `scale` may be taken apart like this.
  __device__ static bool hold(double scale, int top) {
    return top >= 44 && top <= 67 && ldexp(scale, 22 - top) <= 0x1p127;
  }
  __device__ void add(int q, float v) {
    const float a = fmaf(v, scale[q], kBase), rest = fmaf(v, scale[q], -(a - kBase));
    const float b = fmaf(rest, 0x1p22f, kBase), last_rest = fmaf(rest, 0x1p22f, -(b - kBase));
    const float c = fmaf(last_rest, last, kBase);
    first[q] += __float_as_uint(a), second[q] += __float_as_uint(b), third[q] += __float_as_uint(c);
  }
  template <int kUsed>
  __device__ void add_rows(const row_t* x, int rows, double, bool, int i, int end, long long d, const int (&at)[kWide]) {
    // So many loads at once that memory is kept busy.
    constexpr int kAtOnce = 8 / kUsed;
    n += end - i;
    for (; i + kAtOnce <= end; i += kAtOnce) {
      float v[kAtOnce][kUsed];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const row_t* const row = x + __shfl_sync(kAll, rows, i + r) * d;
#pragma unroll
        for (int q = 0; q < kUsed; ++q) v[r][q] = float(row[at[q]]);
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
        for (int q = 0; q < kUsed; ++q) add(q, v[r][q]);
      }
    }
#pragma unroll 1
    for (; i < end; ++i) {
      const row_t* const row = x + __shfl_sync(kAll, rows, i) * d;
#pragma unroll
      for (int q = 0; q < kUsed; ++q) add(q, float(row[at[q]]));
    }
  }
  __device__ void take(int q, long long* h, long long* l) {
    // Sums of bits wrap around, what they count does not: 64 times at most 2^22.
    const unsigned base = n * __float_as_uint(kBase);
    const long long upper = static_cast<long long>(int(first[q] - base)) * (1 << 22) + int(second[q] - base);
    const int shift = top - 44;  // of `upper`, 0 to 23
    *h = upper >> (32 - shift);
    *l = (upper & ((1ll << (32 - shift)) - 1)) * (1ll << shift) + int(third[q] - base);
    first[q] = second[q] = third[q] = 0;
  }
  __device__ void restart() { n = 0; }
};

// A run of sorted rows, at most kRun of them, and sums that they are added to.
struct Run {
  const row_t* x;
  const double* weight;
  const int *labels, *rows;
  int size, d;
  double weight_scale;
  long long *high, *low, *weight_high, *weight_low;
};

// Adds up kUsed times 32 features from `begin` on; with the first ones weights.
template <class Terms, int kUsed>
__device__ __forceinline__ void add_run(const Run& run, const double (&scales)[kWide], int top, int begin) {
  const double* const weight = run.weight;
  const int d = run.d, size = run.size;
  const int lane = threadIdx.x & 31, mine = begin + lane;
  Terms terms(scales, top);
  int at[kWide];
  // What is read beyond the last feature counts for nothing.
#pragma unroll
  for (int q = 0; q < kWide; ++q) at[q] = mine + 32 * q < d ? mine + 32 * q : d - 1;
  long long weight_hi = 0, weight_lo = 0, cluster = 0;
  const auto add_up = [&] {
#pragma unroll
    for (int q = 0; q < kUsed; ++q) {
      long long h, l;
      terms.take(q, &h, &l);
      if (mine + 32 * q < d) add(run.high + cluster * d + at[q], h), add(run.low + cluster * d + at[q], l);
    }
    terms.restart();
    if (begin == 0 && weight) {
      weight_hi = warp_sum(weight_hi), weight_lo = warp_sum(weight_lo);
      if (lane == 0) add(run.weight_high + cluster, weight_hi), add(run.weight_low + cluster, weight_lo);
      weight_hi = weight_lo = 0;
    }
  };
  for (int part = 0; part < size; part += 32) {
    // A lane looks at one row, for all.
    const int m = size - part < 32 ? size - part : 32;
    const int own = lane < m ? run.rows[part + lane] : 0, own_label = lane < m ? run.labels[own] : 0;
    const double own_weight = weight && lane < m ? weight[own] : 0.0;
    if (part == 0) cluster = __shfl_sync(kAll, own_label, 0);
    for (int i = 0; i < m;) {
      const int label = __shfl_sync(kAll, own_label, i);
      if (label != cluster) add_up(), cluster = label;
      // Those up to the next that is another cluster's.
      const unsigned others = __ballot_sync(kAll, lane > i && (lane >= m || own_label != label));
      const int end = others ? __ffs(int(others)) - 1 : 32;
      if (d > 0) terms.template add_rows<kUsed>(run.x, own, own_weight, weight != nullptr, i, end, d, at);
      if (begin == 0 && weight && lane >= i && lane < end) {
        long long h, l;
        split(own_weight * run.weight_scale, &h, &l);
        weight_hi += h, weight_lo += l;
      }
      i = end;
    }
  }
  add_up();
}

// Adds up sorted rows: a warp takes kRun of them, each lane the features lane, lane + 32, ..., kWide of these at a time.
// 2^top bounds what a row of weight one adds.
extern "C" __global__ void __launch_bounds__(256, 3)
    add_runs(const row_t* x, const double* weight, const int* labels, const int* rows, const double* scales,
             double weight_scale, int top, long long* high, long long* low, long long* weight_high,
             long long* weight_low, const unsigned long long* many, unsigned long long few, long long n, int d) {
  if (many && *many <= few) return;
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (long long first = (static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5)) * kRun; first < n;
       first += static_cast<long long>(gridDim.x) * warps * kRun) {
    const int size = first + kRun < n ? kRun : int(n - first);
    const Run run{x, weight, labels, rows + first, size, d, weight_scale, high, low, weight_high, weight_low};
    // Once where there are no features: weights go along with the first.
    for (int begin = 0; begin == 0 || begin < d; begin += 32 * kWide) {
      double scale[kWide];
      bool words = !weight;
#pragma unroll
      for (int q = 0; q < kWide; ++q) {
        scale[q] = begin + lane + 32 * q < d ? scales[begin + lane + 32 * q] : 0.0;
        words &= Words::hold(scale[q], top);
      }
      if (sizeof(row_t) > 4 || !__all_sync(kAll, words)) {
        add_run<Limbs, kWide>(run, scale, top, begin);
      } else if (d - begin <= 32) {
        add_run<Words, 1>(run, scale, top, begin);
      } else if (d - begin <= 64) {
        add_run<Words, 2>(run, scale, top, begin);
      } else {
        add_run<Words, kWide>(run, scale, top, begin);
      }
    }
  }
}
