// Potentials as integers, which add up to the same in any order.
#pragma once
#include "device.cuh"

// rint(w v scale), v a squared distance; `weight` may be null.
__device__ inline long long share_of(const double* weight, long long row, double v, double scale) {
  return __double2ll_rn((weight ? weight[row] * v : v) * scale);
}
