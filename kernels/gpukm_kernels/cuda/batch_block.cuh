// What the threads of one block work out together. All of them take part, and all get the answer.
#pragma once
#include "sums.cuh"

constexpr int kMostThreads = 256, kMostWarps = kMostThreads / 32;
// The windows that the sum of fewer than 2^32 numbers may reach.
constexpr int kWindows = 72;
// Candidates of a step of greedy k-means++: 2 + ln k of them.
constexpr int kMostTrials = 32;

// Shared memory of a block.
struct Block {
  unsigned long long slots[kMostWarps];  // a warp's part of what all are asked for
  unsigned long long windows[kWindows];
  unsigned long long potentials[kMostTrials];
  long long line[kMostThreads];  // sums of the rows up to the end of each thread's stretch
  int places[kMostWarps];
  int candidates[kMostTrials];
};

// All threads' values joined, in any order.
template <class T, class Join>
__device__ inline T joined(T v, T* slots, Join join) {
  for (int step = 16; step > 0; step >>= 1) v = join(v, T(__shfl_xor_sync(kAll, v, step)));
  __syncthreads();  // an answer from before may still be read
  if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = v;
  __syncthreads();
  v = slots[0];
  for (int w = 1; w < int(blockDim.x >> 5); ++w) v = join(v, slots[w]);
  return v;
}

__device__ inline unsigned long long block_sum(unsigned long long v, Block& block) {
  return joined(v, block.slots, [](unsigned long long a, unsigned long long b) { return a + b; });
}
__device__ inline unsigned long long block_most(unsigned long long v, Block& block) {
  return joined(v, block.slots, [](unsigned long long a, unsigned long long b) { return a > b ? a : b; });
}
__device__ inline int block_least(int v, Block& block) {
  return joined(v, block.places, [](int a, int b) { return a < b ? a : b; });
}

// The sum of this thread's value and those of the threads before it; *total becomes that of all.
__device__ inline unsigned long long block_prefix(unsigned long long v, Block& block, unsigned long long* total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int step = 1; step < 32; step <<= 1) {
    const unsigned long long before = __shfl_up_sync(kAll, v, step);
    if (lane >= step) v += before;
  }
  __syncthreads();
  if (lane == 31) block.slots[warp] = v;
  __syncthreads();
  unsigned long long sum = 0;
  for (int w = 0; w < int(blockDim.x >> 5); ++w) {
    if (w == warp) v += sum;
    sum += block.slots[w];
  }
  *total = sum;
  return v;
}

// `fold` in place.
__device__ __noinline__ double folded(double* tree, int n, int size) {
  fold(tree, tree, n, size);
  const double v = tree[0];
  __syncthreads();
  return v;
}

// The exact sum of n numbers >= 0, rounded once to float64, half to even; infinity where one is not finite.
__device__ __noinline__ double exact_total(const double* values, int n, Block& block) {
  unsigned long long most = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const unsigned long long bits = ordered_bits(values[i]);
    most = bits > most ? bits : most;
  }
  most = block_most(most, block);
  if (most >= ordered_bits(infinity())) return infinity();
  for (int w = threadIdx.x; w < kWindows; w += blockDim.x) block.windows[w] = 0;
  // Four windows at a time, from the one that holds the first bit of the largest number on down.
  int first = (max(int(most >> 52) - 1, 0) + 52) / kWindowBits + 1;
  bool rest;
  do {
    first = max(first - 4, 0);
    unsigned long long sum[4] = {0, 0, 0, 0};
    rest = false;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const Units v(values[i]);
#pragma unroll
      for (int w = 0; w < 4; ++w) sum[w] += v.window(first + w);
      rest |= v.below(first);
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      sum[w] = warp_sum(sum[w]);
      if ((threadIdx.x & 31) == 0 && sum[w]) atomicAdd(block.windows + first + w, sum[w]);
    }
  } while (__syncthreads_or(rest));
  // Digits are carried from below; the highest that is not zero and three more hold what float64 has room for.
  unsigned long long over = 0, digit[4] = {0, 0, 0, 0}, high = 0, low = 0;
  bool dropped = false, lost = false;
  int top = 0;
#pragma unroll 1
  for (int w = 0; w < kWindows; ++w) {
    const unsigned long long v = block.windows[w] + over;
    over = v >> kWindowBits;
    dropped |= digit[3] != 0;
    digit[3] = digit[2], digit[2] = digit[1], digit[1] = digit[0], digit[0] = v & ((1ull << kWindowBits) - 1);
    if (!digit[0]) continue;
    top = w, high = digit[0] << kWindowBits | digit[1], low = digit[2] << kWindowBits | digit[3], lost = dropped;
  }
  if (!high) return 0.0;
  // As `rounded` does it. What has fewer bits than float64 below 2^-1022 is exact.
  const int shift = __clzll(static_cast<long long>(high)) - 2, left = 2 * kWindowBits - shift;
  lost |= (low & ((1ull << left) - 1)) != 0;
  const unsigned long long word = high << shift | low >> left | (lost ? 1 : 0);
  return ldexp(double(static_cast<long long>(word)), kWindowBits * (top - 1) - shift - 1074);
}

// Puts the rows in a line, a stretch each thread, as long as `amount` says of each; returns the length of all.
template <class Amount>
__device__ inline long long line_up(int n, Amount amount, Block& block) {
  const int stretch = (n + int(blockDim.x) - 1) / int(blockDim.x), first = int(threadIdx.x) * stretch;
  unsigned long long sum = 0, total;
  for (int i = first; i < min(first + stretch, n); ++i) sum += static_cast<unsigned long long>(amount(i));
  const unsigned long long end = block_prefix(sum, block, &total);
  block.line[threadIdx.x] = static_cast<long long>(end);
  __syncthreads();
  return static_cast<long long>(total);
}

// The row that a place in the line falls on; by one thread.
template <class Amount>
__device__ inline int locate(int n, Amount amount, const Block& block, long long place) {
  int low = 0, high = int(blockDim.x) - 1;  // the first stretch that ends beyond it
  while (low < high) {
    const int mid = (low + high) / 2;
    if (block.line[mid] > place)
      high = mid;
    else
      low = mid + 1;
  }
  const int stretch = (n + int(blockDim.x) - 1) / int(blockDim.x);
  long long end = low ? block.line[low - 1] : 0;
  int i = low * stretch;
  while (i + 1 < n && (end += amount(i)) <= place) ++i;
  return i;
}
