// Screens in float32 by plain multiply-adds: for devices whose matrix units are not known, and for few features.
// `screen` settles rows or lists them; `pairs` turns listed rows into pairs.
#include "tile.cuh"

// `order` tells which centroid stands where; labels, threshold (n,): what the row's nearest, or with `two` its second
// nearest, does not exceed. All rows are listed with `two`. Nothing is done where *stop (may be null) is set.
extern "C" __global__ void screen(const row_t* x, const double* center, double scale, const float* norms,
                                  const float* residuals, const float* c_values, const float* half_norms,
                                  const float* largest, const float* c_residual, const int* order, float by_product,
                                  float by_norm, float by_row, float tiny, int* labels, float* threshold,
                                  long long* listed, unsigned long long* n_listed, const int* stop, int two, long long n,
                                  int k, int d) {
  if (stop && *stop) return;
  __shared__ long long rows[kTile];
  const int ty = threadIdx.x >> 4, tx = threadIdx.x & 15;
  const Errors errors{by_product, by_norm, by_row, tiny};
  for GPUKM_SHARE (block, (n + kTile - 1) / kTile) {
    __syncthreads();
    if (threadIdx.x < kTile) {
      const long long row = block * kTile + threadIdx.x;
      rows[threadIdx.x] = row < n ? row : -1;
    }
    __syncthreads();
    Known known[4];
    float norm[4], residual[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const long long row = rows[ty * 4 + i];
      norm[i] = row >= 0 ? norms[row] : 0.0f, residual[i] = row >= 0 ? residuals[row] : 0.0f;
    }
    for (int first = 0, tile = 0; first < k; first += kTile, ++tile) {
      float scores[4][4];
      tile_scores(x, center, scale, rows, c_values, half_norms, first, k, d, scores);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float least = infinite(), next = infinite();
        int at = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float s = scores[i][j];
          next = fminf(next, fmaxf(least, s));
          if (s < least) least = s, at = j;
        }
        known[i].see(least, first + tx * 4 + at, next, errors(norm[i], residual[i], largest[tile], c_residual[tile]));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      for (int step = 8; step > 0; step >>= 1) known[i].exchange(step);
      const long long row = rows[ty * 4 + i];
      if (tx == 0 && row >= 0) {
        labels[row] = order[known[i].at];
        threshold[row] = two ? known[i].second : known[i].upper;
        if (two || !known[i].settled()) listed[atomicAdd(n_listed, 1ull)] = row;
      }
    }
  }
}

// Pairs of a listed row and each centroid whose lower bound its threshold does not exclude, by place in the list.
extern "C" __global__ void pairs(const row_t* x, const double* center, double scale, const float* norms,
                                 const float* residuals, const float* c_values, const float* half_norms,
                                 const float* largest, const float* c_residual, const int* order, float by_product,
                                 float by_norm, float by_row, float tiny, const float* threshold,
                                 const long long* listed, const unsigned long long* n_listed, int* pair_places,
                                 int* pair_centroids, unsigned long long* n_pairs, long long room,
                                 unsigned char* crowded, int k, int d) {
  __shared__ long long rows[kTile];
  const int ty = threadIdx.x >> 4, tx = threadIdx.x & 15;
  const Errors errors{by_product, by_norm, by_row, tiny};
  const long long n = static_cast<long long>(*n_listed);
  for GPUKM_SHARE (block, (n + kTile - 1) / kTile) {
    __syncthreads();
    if (threadIdx.x < kTile) {
      const long long place = block * kTile + threadIdx.x;
      rows[threadIdx.x] = place < n ? listed[place] : -1;
    }
    __syncthreads();
    for (int first = 0, tile = 0; first < k; first += kTile, ++tile) {
      float scores[4][4];
      tile_scores(x, center, scale, rows, c_values, half_norms, first, k, d, scores);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const long long row = rows[ty * 4 + i];
        if (row < 0) continue;
        const float error = errors(norms[row], residuals[row], largest[tile], c_residual[tile]), limit = threshold[row];
        const int place = int(block * kTile) + ty * 4 + i;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int column = first + tx * 4 + j;
          // Not the other way round: a bound that is no number excludes nothing.
          if (column >= k || scores[i][j] - error > limit) continue;
          const long long at = static_cast<long long>(atomicAdd(n_pairs, 1ull));
          if (at < room) {
            pair_places[at] = place, pair_centroids[at] = order[column];
          } else {
            crowded[place] = 1;
          }
        }
      }
    }
  }
}
