// What screens share: the arithmetic of bounds. kernels/README.md derives them.
#pragma once
#include "device.cuh"

__device__ inline float infinite() { return __int_as_float(0x7F800000); }

// At least v >= 0.
__device__ inline float upward(double v) { return float(v * (1 + 0x1p-22)) + 0x1p-126f; }

// (v - m) scale in float32, cut off where products of two such would overflow.
__device__ inline float centred(float v, double m, double scale) {
  const float t = (v - float(m)) * float(scale);
  return fminf(fmaxf(t, -0x1p40f), 0x1p40f);
}
__device__ inline float centred(double v, double m, double scale) {
  const double t = (v - m) * scale;
  return float(fmin(fmax(t, -0x1p40), 0x1p40));
}

// What a score errs by at most: rounding of operands, the sum, D itself, underflow, and a sixteenth more. X, r are a row's
// norm and residual, C, t the largest of a tile of centroids.
struct Errors {
  float product, norm, row, tiny;

  __device__ float operator()(float X, float r, float C, float t) const {
    const float reach = X + r, c_reach = C + t;
    const float small = product * reach * c_reach + norm * C * C + row * reach * reach + tiny * (1 + reach) * (1 + c_reach);
    return 1.0625f * small + (1 + 0x1p-20f) * (r * C + reach * t);
  }
};

// What is known of a row: the centroid of the lowest upper bound, its bounds, the lower bound of all others, and the
// second lowest upper bound.
struct Known {
  float upper = infinite(), second = infinite(), lower = infinite(), rest = infinite();
  int at = 0;

  // Scores of a tile: the smallest, where it is, the next, and what they err by.
  __device__ void see(float least, int where, float next, float error) {
    if (!(error < infinite())) rest = -infinite();
    join({least + error, next + error, least - error, next - error, where});
  }
  __device__ void join(const Known& o) {
    const bool closer = o.upper < upper;
    rest = fminf(fminf(rest, o.rest), closer ? lower : o.lower);
    second = fminf(fminf(second, o.second), closer ? upper : o.upper);
    if (closer) upper = o.upper, lower = o.lower, at = o.at;
  }
  // With what lanes `step` apart know, both ways.
  __device__ void exchange(int step) {
    Known o;
    o.upper = __shfl_xor_sync(kAll, upper, step), o.second = __shfl_xor_sync(kAll, second, step);
    o.lower = __shfl_xor_sync(kAll, lower, step), o.rest = __shfl_xor_sync(kAll, rest, step);
    o.at = __shfl_xor_sync(kAll, at, step);
    join(o);
  }
  __device__ bool settled() const { return upper < rest; }
};
