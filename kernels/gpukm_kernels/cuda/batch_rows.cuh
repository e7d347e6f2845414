// The rows of a small problem: looked at once, and what a fit wants to know of them.
#pragma once
#include "batch_block.cuh"

constexpr int kHead = 1024;  // rows whose median is the reference
constexpr int kDrawBits = 60, kGridBits = 82;  // of a total that draws are made from, and of sums
constexpr double kLargest = 1e140;             // beyond it squares could overflow

// A problem, and memory to work in: `values` and `own` have an entry a row, `reference`, `scales`, `units` one a
// feature, `work` as many as the power of two not below d. Columns are the rows feature by feature, so that
// neighbouring threads read neighbouring rows.
struct Rows {
  int n, d;
  const row_t* x;
  const double* weight;  // or null
  wide_t* columns;
  double *values, *reference, *scales, *units, *work;
  int* own;

  // What `look` finds.
  int positive;         // rows of positive weight
  int first_exponent;   // of the grid that potentials are drawn on, to begin with
  double total_weight, spread, weight_scale, weight_unit;
};

__device__ inline int exponent_of(double v) {
  int e;
  (void)frexp(v, &e);
  return e;
}
__device__ inline int grid_exponent(double most) { return max(-1000, min(1000, kGridBits - exponent_of(most))); }

// D of a row, of which `column` is the first value and the others follow n apart, to a point.
template <class X, class Point>
__device__ inline double row_distance(const X* column, int n, const Point* point, int d) {
  double q[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
  int f = 0;
  for (; f + 8 <= d; f += 8) {
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      const double difference = double(column[(f + l) * n]) - double(point[f + l]);
      q[l] += difference * difference;
    }
  }
#pragma unroll
  for (int l = 0; l < 7; ++l) {
    if (f + l < d) {
      const double difference = double(column[(f + l) * n]) - double(point[f + l]);
      q[l] += difference * difference;
    }
  }
  return ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]));
}

__device__ inline double times_weight(const Rows& rows, int i, double v) {
  return rows.weight ? rows.weight[i] * v : v;
}

// Integers that order as the numbers do.
__device__ inline unsigned key_of(float v) {
  const unsigned bits = __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}
__device__ inline unsigned long long key_of(double v) {
  const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(v));
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}
__device__ inline double value_of(unsigned key) { return double(__uint_as_float(key >> 31 ? key ^ 1u << 31 : ~key)); }
__device__ inline double value_of(unsigned long long key) {
  return __longlong_as_double(static_cast<long long>(key >> 63 ? key ^ 1ull << 63 : ~key));
}

// The median of n <= kHead numbers, the mean of the middle two where n is even; by a warp. Bits of the lower middle one
// are found from the top down, by counting the numbers below.
__device__ inline double median(const wide_t* column, int n) {
  typedef decltype(key_of(wide_t())) Key;
  constexpr int bits = 8 * int(sizeof(Key)), most = kHead / 32;
  const int lane = threadIdx.x & 31, rank = (n - 1) / 2;
  Key keys[most];
#pragma unroll
  for (int t = 0; t < most; ++t) keys[t] = t * 32 + lane < n ? key_of(column[t * 32 + lane]) : ~Key(0);
  Key lower = 0;
#pragma unroll 1
  for (int bit = bits - 1; bit >= 0; --bit) {
    const Key guess = lower | Key(1) << bit;
    int below = 0;
#pragma unroll
    for (int t = 0; t < most; ++t) below += keys[t] < guess;
    if (warp_sum(below) <= rank) lower = guess;
  }
  // The next is the same where enough numbers are not above it, and else the least that is.
  int up_to = 0;
  Key upper = ~Key(0);
#pragma unroll
  for (int t = 0; t < most; ++t) {
    up_to += keys[t] <= lower;
    if (keys[t] > lower && keys[t] < upper) upper = keys[t];
  }
  up_to = warp_sum(up_to);
  for (int step = 16; step > 0; step >>= 1) {
    const Key other = __shfl_xor_sync(kAll, upper, step);
    upper = other < upper ? other : upper;
  }
  if (n % 2 || up_to > rank + 1) return value_of(lower);
  return (value_of(lower) + value_of(upper)) / 2;
}

// Looks at all rows; false for what is left to the door of a fit. `constant` (d,) tells which features have one value.
__device__ __noinline__ bool look(Rows& rows, unsigned char* constant, Block& block) {
  const int n = rows.n, d = rows.d, lane = threadIdx.x & 31;
  unsigned long long positive = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) positive += !rows.weight || rows.weight[i] > 0;
  rows.positive = int(block_sum(positive, block));
  rows.total_weight = rows.weight ? exact_total(rows.weight, n, block) : double(n);
  if (!rows.positive || !(rows.total_weight < 1e300)) return false;
  const int exponent = grid_exponent(rows.total_weight);
  rows.weight_scale = ldexp(1.0, exponent), rows.weight_unit = ldexp(1.0, -exponent);
  for (int v = threadIdx.x; v < n * d; v += blockDim.x) rows.columns[(v % d) * n + v / d] = rows.x[v];
  __syncthreads();

  bool bad = false;
  for (int f = threadIdx.x >> 5; f < d; f += blockDim.x >> 5) {
    const wide_t* column = rows.columns + f * n;
    double low = infinity(), high = -infinity();
    for (int i = lane; i < n; i += 32) {
      const double v = double(column[i]);
      bad |= !(fabs(v) <= kLargest);
      if (rows.weight && !(rows.weight[i] > 0)) continue;
      low = fmin(low, v), high = fmax(high, v);
    }
    for (int step = 16; step > 0; step >>= 1) {
      low = fmin(low, __shfl_xor_sync(kAll, low, step));
      high = fmax(high, __shfl_xor_sync(kAll, high, step));
    }
    const double middle = double(wide_t(median(column, min(n, kHead))));
    if (lane == 0) {
      const double largest = fmax(fabs(low), fabs(high)), most = largest * rows.total_weight;
      bad |= !(most < infinity());
      const int e = largest > 0 ? grid_exponent(most) : 0;
      rows.scales[f] = ldexp(1.0, e), rows.units[f] = ldexp(1.0, -e);
      rows.reference[f] = middle, rows.work[f] = (high - low) * (high - low);
      constant[f] = low == high;
    }
  }
  if (__syncthreads_or(bad)) return false;
  int size = 1;
  while (size < d) size *= 2;
  const double largest = folded(rows.work, d, size) * rows.total_weight;
  rows.first_exponent = largest > 0 ? min(kDrawBits - exponent_of(largest) - 1, 1000) : 1000;

  for (int i = threadIdx.x; i < n; i += blockDim.x)
    rows.values[i] = times_weight(rows, i, row_distance(rows.columns + i, n, rows.reference, d));
  __syncthreads();
  rows.spread = exact_total(rows.values, n, block);
  return rows.spread < infinity();
}
