// D on the device, to the bit, and what is added up of it.
#include "sums.cuh"

// out[i] = D(x_i, c_label), times the row's weight where there are weights; labels null are all zero. `largest` becomes
// the bits of the largest, which are above all others where one is not finite.
extern "C" __global__ void distances(const row_t* x, const wide_t* c, const int* labels, const double* weight,
                                     double* out, unsigned long long* largest, long long n, int d) {
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3;
  unsigned long long most = 0;
  for GPUKM_SHARE (block, (n + groups - 1) / groups) {
    const long long row = block * groups + group;
    const long long i = row < n ? row : n - 1;
    double v = lane_distance(x + i * d, c + (labels ? labels[i] : 0) * static_cast<long long>(d), d);
    if (weight) v *= weight[i];
    if (row < n && (threadIdx.x & 7) == 0) {
      out[row] = v;
      const unsigned long long bits = ordered_bits(v);
      most = bits > most ? bits : most;
    }
  }
  if (largest && most) atomicMax(largest, most);
}

// Of values >= 0 as integers in units of 2^-1074: the bits 30 w to 30 w + 29 of each, added up for the windows
// w = first .. first + 3. `below` becomes one where any value has bits that are lower still.
extern "C" __global__ void windows(const double* values, unsigned long long* sums, int* below, int first, long long n) {
  unsigned long long sum[4] = {0, 0, 0, 0};
  bool rest = false;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const Units v(values[i]);
#pragma unroll
    for (int w = 0; w < 4; ++w) sum[w] += v.window(first + w);
    rest |= v.below(first);
  }
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    sum[w] = warp_sum(sum[w]);
    if ((threadIdx.x & 31) == 0 && sum[w]) atomicAdd(sums + w, sum[w]);
  }
  if (rest) *below = 1;
}

constexpr int kRows = 32, kPoints = 8, kFeatures = 32;

// D of 32 rows to 8 points by 256 threads: the thread's row is threadIdx.x % 32, its point threadIdx.x / 32, clamped to
// those there are. Every thread of the block takes part.
__device__ double tile_distance(const row_t* x, long long first_row, long long n, const wide_t* points, int first_point,
                                int m, int d) {
  __shared__ wide_t rows[kRows][kFeatures + 1], near[kPoints][kFeatures];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  double q[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
  for (int begin = 0; begin < d; begin += kFeatures) {
    const int f = begin + lane;
    __syncthreads();
    for (int r = warp; r < kRows; r += kPoints) {
      const long long i = first_row + r < n ? first_row + r : n - 1;
      rows[r][lane] = f < d ? wide_t(x[i * d + f]) : wide_t(0);
    }
    const int j = first_point + warp < m ? first_point + warp : m - 1;
    near[warp][lane] = f < d ? points[static_cast<long long>(j) * d + f] : wide_t(0);
    __syncthreads();
    // A feature that is not there adds +0, which changes no bit of a sum that began with +0.
    for (int g = 0; g < kFeatures && begin + g < d; g += 8) {
#pragma unroll
      for (int l = 0; l < 8; ++l) {
        const double difference = double(rows[lane][g + l]) - double(near[warp][g + l]);
        q[l] += difference * difference;
      }
    }
  }
  return ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]));
}

// out[i, j] = D(x_i, p_j); blocks of 256 threads.
extern "C" __global__ void cross(const row_t* x, const wide_t* points, double* out, long long n, int m, int d) {
  const int tiles = (m + kPoints - 1) / kPoints;
  for GPUKM_SHARE (block, (n + kRows - 1) / kRows * tiles) {
    const long long first_row = block / tiles * kRows;
    const int first_point = int(block % tiles) * kPoints;
    const double v = tile_distance(x, first_row, n, points, first_point, m, d);
    const long long row = first_row + (threadIdx.x & 31);
    const int point = first_point + (threadIdx.x >> 5);
    if (row < n && point < m) out[row * m + point] = v;
  }
}

// nearest[i] = min(nearest[i], min_j D(x_i, p_j)); blocks of 256 threads.
extern "C" __global__ void lower(const row_t* x, const wide_t* points, double* nearest, long long n, int m, int d) {
  __shared__ unsigned long long best[kRows];
  for GPUKM_SHARE (block, (n + kRows - 1) / kRows) {
    if (threadIdx.x < kRows) best[threadIdx.x] = ordered_bits(infinity());
    __syncthreads();
    for (int first_point = 0; first_point < m; first_point += kPoints) {
      const double v = tile_distance(x, block * kRows, n, points, first_point, m, d);
      atomicMin(&best[threadIdx.x & 31], ordered_bits(v));
    }
    __syncthreads();
    const long long row = block * kRows + threadIdx.x;
    if (threadIdx.x < kRows && row < n) nearest[row] = fmin(nearest[row], __longlong_as_double((long long)best[threadIdx.x]));
    __syncthreads();
  }
}

// total[j] += sum over rows of rint(w min(nearest, D(x_i, p_j)) scale); blocks of 256 threads.
extern "C" __global__ void potentials(const row_t* x, const double* weight, const wide_t* points, const double* nearest,
                                      unsigned long long* total, double scale, long long n, int m, int d) {
  const int tiles = (m + kPoints - 1) / kPoints;
  for GPUKM_SHARE (block, (n + kRows - 1) / kRows * tiles) {
    const int first_point = int(block % tiles) * kPoints, point = first_point + (threadIdx.x >> 5);
    const long long first_row = block / tiles * kRows, row = first_row + (threadIdx.x & 31);
    double v = tile_distance(x, first_row, n, points, first_point, m, d);
    unsigned long long share = 0;
    if (row < n) {
      v = fmin(nearest[row], v);
      share = static_cast<unsigned long long>(__double2ll_rn((weight ? weight[row] * v : v) * scale));
    }
    share = warp_sum(share);
    if ((threadIdx.x & 31) == 0 && point < m) atomicAdd(total + point, share);
  }
}
