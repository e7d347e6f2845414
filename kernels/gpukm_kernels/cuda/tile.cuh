// Scores in float32 by plain multiply-adds. A score is |c'|^2 / 2 - x'.c'; c_values are negated. 256 threads take 64
// rows by 64 centroids at a time; each thread holds four rows by four centroids.
#pragma once
#include "screen.cuh"

constexpr int kTile = 64, kDeep = 16;

// Scores of the thread's rows (threadIdx.x / 16 * 4 + i) and centroids first + (threadIdx.x % 16 * 4 + j). Rows that
// are not there are given as -1. `rows` are those of the block in shared memory.
__device__ void tile_scores(const row_t* x, const double* center, double scale, const long long* rows,
                            const float* c_values, const float* half_norms, int first, int k, int d,
                            float scores[4][4]) {
  __shared__ float a[kDeep][kTile + 4], b[kDeep][kTile + 4];
  const int ty = threadIdx.x >> 4, tx = threadIdx.x & 15;
  const int pitch = (d + 15) / 16 * 16;  // as gpukm_kernels.screening has it
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int column = first + tx * 4 + j;
    const float half = column < k ? half_norms[column] : infinite();
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i][j] = half;
  }
  for (int begin = 0; begin < d; begin += kDeep) {
    const int f = begin + tx;
    __syncthreads();
    for (int r = ty; r < kTile; r += 16) {
      const long long row = rows[r], j = first + r;
      a[tx][r] = row >= 0 && f < d ? centred(x[row * d + f], center[f], scale) : 0.0f;
      b[tx][r] = j < k && f < d ? c_values[j * pitch + f] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kDeep; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) scores[i][j] = fmaf(a[g][ty * 4 + i], b[g][tx * 4 + j], scores[i][j]);
    }
  }
}
