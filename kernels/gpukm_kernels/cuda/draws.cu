// Rows drawn in proportion to their share of the potential, by exact prefix sums in the order of the rows.
#include "share.cuh"

// out[b] = sum of the shares of rows b each .. (b + 1) each - 1, a block of threads for each.
extern "C" __global__ void totals(const double* nearest, const double* weight, double scale, long long* out,
                                  long long n, int each) {
  __shared__ long long sums[32];
  for GPUKM_SHARE (block, (n + each - 1) / each) {
    const long long end = (block + 1) * each < n ? (block + 1) * each : n;
    long long sum = 0;
    for (long long i = block * each + threadIdx.x; i < end; i += blockDim.x)
      sum += share_of(weight, i, nearest[i], scale);
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
      sum = warp_sum(threadIdx.x < blockDim.x >> 5 ? sums[threadIdx.x] : 0);
      if (threadIdx.x == 0) out[block] = sum;
    }
    __syncthreads();
  }
}

// found[i] = the first row whose share and those before it in block blocks[i], of `each` rows, exceed targets[i]; a block
// of up to 1024 threads for each.
extern "C" __global__ void locate(const double* nearest, const double* weight, double scale, const long long* blocks,
                                  const long long* targets, long long* found, long long n, int each, int m) {
  __shared__ long long sums[1024];
  const long long own = (each + blockDim.x - 1) / blockDim.x;  // rows of a thread
  for GPUKM_SHARE (i, m) {
    const long long start = blocks[i] * each, stop = start + each < n ? start + each : n;
    const long long first = start + threadIdx.x * own, end = first + own < stop ? first + own : stop;
    long long sum = 0;
    for (long long row = first; row < end; ++row) sum += share_of(weight, row, nearest[row], scale);
    sums[threadIdx.x] = sum;
    __syncthreads();
    long long left = targets[i];
    for (unsigned t = 0; t < threadIdx.x; ++t) left -= sums[t];
    // One thread has the row.
    if (left >= 0 && left < sum) {
      long long row = first;
      for (; left >= share_of(weight, row, nearest[row], scale); ++row)
        left -= share_of(weight, row, nearest[row], scale);
      found[i] = row;
    }
    __syncthreads();
  }
}
