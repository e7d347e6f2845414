// Starts of a small problem: gpukm.core.seeding, to the bit.
#pragma once
#include "batch_rows.cuh"

enum Purpose : unsigned long long { kRandomRows = 1, kPlusPlus = 2, kRestart = 6 };  // of gpukm.core.rng

// Element i of the stream (seed, purpose): Philox-4x64-10 (Salmon et al., SC 2011) as NumPy counts it.
__device__ __noinline__ unsigned long long draw(unsigned long long seed, unsigned long long purpose,
                                                unsigned long long i) {
  unsigned long long c[4] = {i / 4 + 1, 0, 0, 0}, k0 = seed, k1 = purpose;
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = 0xD2E7470EE14C6C93ull, b = 0xCA5A826395121157ull;
    const unsigned long long next[4] = {__umul64hi(b, c[2]) ^ c[1] ^ k0, b * c[2], __umul64hi(a, c[0]) ^ c[3] ^ k1,
                                        a * c[0]};
    for (int l = 0; l < 4; ++l) c[l] = next[l];
    k0 += 0x9E3779B97F4A7C15ull, k1 += 0xBB67AE8584CAA73Bull;
  }
  return i % 4 == 0 ? c[0] : i % 4 == 1 ? c[1] : i % 4 == 2 ? c[2] : c[3];
}

// The same in [0, bound).
__device__ inline long long draw_below(long long bound, unsigned long long seed, unsigned long long purpose,
                                       unsigned long long i) {
  return static_cast<long long>(__umul64hi(draw(seed, purpose, i), static_cast<unsigned long long>(bound)));
}

// Draws `count` different rows in proportion to their weights into `chosen` (k,); `tried` (k,) is for the work.
__device__ __noinline__ void random_rows(const Rows& rows, int count, unsigned long long seed, int* chosen, int* tried,
                                   Block& block) {
  constexpr int kFree = 0x7FFFFFFF;
  const int exponent = kDrawBits - exponent_of(rows.total_weight), n = rows.n;
  // Who drew a row first; rows drawn before count nothing.
  int* const own = rows.own;
  const auto amount = [&](int i) -> long long {
    if (own[i] != kFree) return 0;
    if (!rows.weight) return 1;
    const long long q = __double2ll_rn(ldexp(rows.weight[i], exponent));
    return q < 1 && rows.weight[i] > 0 ? 1 : q;
  };
  for (int i = threadIdx.x; i < n; i += blockDim.x) own[i] = kFree;
  unsigned long long first = 0;
  for (int found = 0; found < count;) {
    const int wanted = count - found;
    __syncthreads();
    const long long total = line_up(n, amount, block);
    for (int t = threadIdx.x; t < wanted; t += blockDim.x)
      tried[t] = locate(n, amount, block, draw_below(total, seed, kRandomRows, first + t));
    __syncthreads();
    for (int t = threadIdx.x; t < wanted; t += blockDim.x) atomicMin(own + tried[t], t);
    __syncthreads();
    for (int begin = 0; begin < wanted; begin += blockDim.x) {
      const int t = begin + threadIdx.x;
      const bool kept = t < wanted && own[tried[t]] == t;
      unsigned long long more;
      const unsigned long long place = block_prefix(kept, block, &more);
      if (kept) chosen[found + int(place) - 1] = tried[t];
      found += int(more);
    }
    first += wanted;
  }
  __syncthreads();
}

// Greedy k-means++; returns how many rows were found that differ, where k do not.
__device__ __noinline__ int plus_plus(const Rows& rows, int k, int trials, unsigned long long seed, int* chosen,
                                      int* tried, Block& block) {
  random_rows(rows, 1, seed, chosen, tried, block);
  const int n = rows.n, d = rows.d;
  int exponent = rows.first_exponent;
  unsigned long long first = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) rows.values[i] = infinity();
  for (int made = 1; made < k; ++made, first += trials) {
    const row_t* newest = rows.x + chosen[made - 1] * d;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
      rows.values[i] = fmin(rows.values[i], row_distance(rows.columns + i, n, newest, d));
    if (threadIdx.x < kMostTrials) block.potentials[threadIdx.x] = 0;
    __syncthreads();
    double scale;
    const auto amount = [&](int i) { return __double2ll_rn(times_weight(rows, i, rows.values[i]) * scale); };
    long long total;
    for (;;) {
      scale = ldexp(1.0, exponent);
      total = line_up(n, amount, block);
      // A grid that uses most of 60 bits for the total, of which each row may have lost half a unit.
      const int spare = kDrawBits - (64 - __clzll(total + n));
      if (spare < 8 || exponent + spare > 1000) break;
      exponent += spare - 1;
    }
    if (!total) return made;
    if (int(threadIdx.x) < trials)
      block.candidates[threadIdx.x] =
          locate(n, amount, block, draw_below(total, seed, kPlusPlus, first + threadIdx.x));
    __syncthreads();
    // What each candidate would leave.
    for (int t = 0; t < trials; ++t) {
      const row_t* point = rows.x + block.candidates[t] * d;
      unsigned long long sum = 0;
      for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const double v = fmin(rows.values[i], row_distance(rows.columns + i, n, point, d));
        sum += static_cast<unsigned long long>(__double2ll_rn(times_weight(rows, i, v) * scale));
      }
      sum = warp_sum(sum);
      if ((threadIdx.x & 31) == 0) atomicAdd(block.potentials + t, sum);
    }
    __syncthreads();
    int best = 0;
    for (int t = 1; t < trials; ++t)
      if (block.potentials[t] < block.potentials[best]) best = t;
    if (threadIdx.x == 0) chosen[made] = block.candidates[best];
    __syncthreads();
  }
  return k;
}

// Draws starting centroids; without trials they are rows drawn at random.
__device__ inline void start_from(const Rows& rows, int k, int trials, unsigned long long seed, wide_t* centers,
                                  int* chosen, int* tried, Block& block) {
  int made = min(k, rows.positive);
  if (made < k || trials == 0)
    random_rows(rows, made, seed, chosen, tried, block);
  else
    made = plus_plus(rows, k, trials, seed, chosen, tried, block);
  // Too few rows: the first repeats.
  for (int v = threadIdx.x; v < k * rows.d; v += blockDim.x) {
    const int j = v / rows.d;
    centers[v] = rows.x[chosen[j < made ? j : 0] * rows.d + v % rows.d];
  }
  __syncthreads();
}
