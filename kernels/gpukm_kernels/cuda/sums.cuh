// Sums that come out the same in any order, and one in an order that is fixed.
#pragma once
#include "device.cuh"

// High and low limbs of rint(v), |v| <= 2^82: v = high 2^32 + low, as gpukm.core.stats.split makes them.
//
// What is added to 1.5 2^84 is rounded to a multiple of 2^32, half to even, and its count is the difference of the bits;
// of 1.5 2^52 likewise to a multiple of one. This takes no conversions to integers of 64 bits, of which GPUs make few.
__device__ inline void split(double v, long long* high, long long* low) {
  constexpr double kHigh = 0x1.8p84, kLow = 0x1.8p52;
  const double h = v + kHigh, l = (v - (h - kHigh)) + kLow;
  *high = __double_as_longlong(h) - __double_as_longlong(kHigh);
  *low = __double_as_longlong(l) - __double_as_longlong(kLow);
}

__device__ inline void add(long long* to, long long v) {
  if (v) atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(v));
}

// Moves what exceeds 32 bits from the low limbs to the high ones.
__device__ inline void carry(long long* high, long long* low) {
  *high += *low >> 32;
  *low &= 0xFFFFFFFFll;
}

// S = high 2^32 + low, |S| < 2^94, low in [0, 2^32), rounded once to float64, half to even.
__device__ inline double rounded(long long high, long long low) {
  const bool negative = high < 0;
  if (negative) {
    low = -low;
    high = -high + (low >> 32);
    low &= 0xFFFFFFFFll;
  }
  if (high == 0) {
    const double v = double(low);
    return negative ? -v : v;
  }
  // 62 leading bits in one word; any bit lost below sets the last one, which keeps the rounding right.
  int shift = __clzll(high) - 2;
  shift = shift < 0 ? 0 : shift > 32 ? 32 : shift;
  const long long lost = low & ((1ll << (32 - shift)) - 1);
  const long long word = (high << shift) | (low >> (32 - shift)) | (lost != 0);
  const double v = ldexp(double(word), 32 - shift);
  return negative ? -v : v;
}

// Bits of a window, at absolute positions, of numbers in units of 2^-1074.
constexpr int kWindowBits = 30;

// v >= 0 as mantissa 2^at.
struct Units {
  unsigned long long mantissa;
  int at;

  __device__ explicit Units(double v) {
    const unsigned long long bits = ordered_bits(v);
    const int biased = int(bits >> 52);
    mantissa = (bits & 0xFFFFFFFFFFFFFull) | (biased ? 1ull << 52 : 0);
    at = biased ? biased - 1 : 0;
  }
  // The bits 30 w to 30 w + 29.
  __device__ unsigned long long window(int w) const {
    const int left = at - kWindowBits * w;
    // What is shifted out at the top belongs to windows above, and a shift by 64 or more leaves nothing.
    const unsigned long long part =
        left >= 0 ? (left < kWindowBits ? mantissa << left : 0) : (left > -64 ? mantissa >> -left : 0);
    return part & ((1ull << kWindowBits) - 1);
  }
  // Whether any bit lies below those of window w.
  __device__ bool below(int w) const {
    const int under = kWindowBits * w - at;
    return under > 0 && (under >= 53 ? mantissa : mantissa & ((1ull << under) - 1)) != 0;
  }
};

// Sums n values over a fixed binary tree, padded with zeros to a power of two, halves added: gpukm.core.exact.fold. All
// threads of one block; `work`, which may be the values themselves, holds `size` values, of which the first becomes the
// sum.
__device__ inline void fold(const double* values, double* work, int n, int size) {
  for (int i = threadIdx.x; i < size; i += blockDim.x) work[i] = i < n ? values[i] : 0.0;
  for (int half = size / 2; half > 0; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += blockDim.x) work[i] = work[i] + work[half + i];
  }
  __syncthreads();
}
