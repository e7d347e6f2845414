// Sums of all rows, where many moved: rows are sorted by their labels, so that each warp adds up long runs of one cluster
// in registers and few atomics are left. Screens sort rows by their tiles with the same kernels.
//
// Whether that is done may be known on the device alone: *many is above `few`. Otherwise these kernels return at once, and
// `accumulate` of update.cu does the work, which else returns at once. Null always sorts, and never there.
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
extern "C" __global__ void line_up(const int* labels, int* before, int* sizes, int* done, int* cursors,
                                   long long* counts, unsigned long long* moved, const unsigned long long* many,
                                   unsigned long long few, long long n, int k) {
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
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(done, 1) == int(gridDim.x) - 1;
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

// Adds up sorted rows: a warp takes kRun of them, each lane the features lane, lane + 32, ..., kWide of these at a time.
extern "C" __global__ void add_runs(const row_t* x, const double* weight, const int* labels, const int* rows,
                                    const double* scales, double weight_scale, long long* high, long long* low,
                                    long long* weight_high, long long* weight_low, const unsigned long long* many,
                                    unsigned long long few, long long n, int d) {
  if (many && *many <= few) return;
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (long long first = (static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5)) * kRun; first < n;
       first += static_cast<long long>(gridDim.x) * warps * kRun) {
    const int size = first + kRun < n ? kRun : int(n - first);
    // Once where there are no features: weights go along with the first.
    for (int begin = 0; begin == 0 || begin < d; begin += 32 * kWide) {
      const int mine = begin + lane;
      double scale[kWide];
#pragma unroll
      for (int q = 0; q < kWide; ++q) scale[q] = mine + 32 * q < d ? scales[mine + 32 * q] : 0.0;
      long long hi[kWide] = {}, lo[kWide] = {}, weight_hi = 0, weight_lo = 0;
      long long cluster = 0;
      const auto add_up = [&] {
#pragma unroll
        for (int q = 0; q < kWide; ++q) {
          const int f = mine + 32 * q;
          if (f < d) add(high + cluster * d + f, hi[q]), add(low + cluster * d + f, lo[q]);
          hi[q] = lo[q] = 0;
        }
        if (weight && begin == 0 && lane == 0) add(weight_high + cluster, weight_hi), add(weight_low + cluster, weight_lo);
        weight_hi = weight_lo = 0;
      };
      for (int part = 0; part < size; part += 32) {
        // A lane looks at one row, for all.
        const int m = size - part < 32 ? size - part : 32;
        const int own = lane < m ? rows[first + part + lane] : 0, own_label = lane < m ? labels[own] : 0;
        const double own_weight = weight && lane < m ? weight[own] : 1.0;
        if (part == 0) cluster = __shfl_sync(kAll, own_label, 0);
#pragma unroll 2
        for (int i = 0; i < m; ++i) {
          const row_t* const row = x + __shfl_sync(kAll, own, i) * static_cast<long long>(d) + mine;
          double v[kWide];
#pragma unroll
          for (int q = 0; q < kWide; ++q) v[q] = mine + 32 * q < d ? double(row[32 * q]) : 0.0;
          const int label = __shfl_sync(kAll, own_label, i);
          if (label != cluster) add_up(), cluster = label;
          const double w = __shfl_sync(kAll, own_weight, i);
#pragma unroll
          for (int q = 0; q < kWide; ++q) {
            if (begin + 32 * q >= d) break;
            long long h, l;
            split((weight ? w * v[q] : v[q]) * scale[q], &h, &l);
            hi[q] += h, lo[q] += l;
          }
          if (weight && begin == 0) {
            long long h, l;
            split(w * weight_scale, &h, &l);
            weight_hi += h, weight_lo += l;
          }
        }
      }
      add_up();
    }
  }
}
