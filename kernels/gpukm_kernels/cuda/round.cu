// Rows and centroids as screens take them: about a centre, scaled by a power of two, in a type of less precision; with
// what that leaves out, measured in float64.
#include "screen.cuh"

// A warp a vector: values (n, pitch) zero beyond d, norms at least |x'|, residuals at least |x' - values|, x' being
// (x - center) scale. Vector i is x[order[i]], or x[i] where order is null. Of centroids, which have half_norms
// |x'|^2 / 2, values are negated: a score then is the sum that begins with half a norm.
//
// Where norms and residuals are null nothing is to be bounded, and half_norms are those of the values: what a centroid lost by
// rounding then counts by how far rows are from it, and not from the centre.
template <class V, class Store>
__device__ void round_rows(const row_t* x, const double* center, double scale, const int* order, V* values,
                           float* norms, float* residuals, float* half_norms, long long n, int d, int pitch,
                           Store store) {
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  const double grow = 1 + (d + 8) * 0x1p-52;  // in float64 a square, a sum and a root err by far less than this
  for (long long i = static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5); i < n;
       i += static_cast<long long>(gridDim.x) * warps) {
    const row_t* row = x + (order ? order[i] : i) * static_cast<long long>(d);
    double square = 0.0, rest = 0.0, kept = 0.0;
    bool cut = false;
    for (int f = lane; f < pitch; f += 32) {
      const double true_value = f < d ? (double(row[f]) - center[f]) * scale : 0.0;
      const double stored = store(values, i * pitch + f, f < d ? wide_t(row[f]) : wide_t(0), f < d ? center[f] : 0.0);
      const double left = true_value - stored;
      if (norms || half_norms) square += true_value * true_value;
      if (norms) {
        rest += left * left;
      } else if (half_norms) {
        kept += stored * stored;
        cut |= fabs(left) > 0x1p-7 * fabs(true_value) + 0x1p-24;
      }
    }
    if (norms) {
      square = warp_sum(square), rest = warp_sum(rest);
      // Close to the end of float32, where what fills up tiles lies, nothing is known of a vector.
      if (lane == 0) norms[i] = float(0.5 * square) < 0x1p126f ? upward(sqrt(square) * grow) : infinite();
      if (lane == 0) residuals[i] = upward(sqrt(rest) * grow);
    } else if (half_norms) {
      // What was cut off was not rounded: it lies where it lay.
      square = warp_sum(__any_sync(kAll, cut) ? square : kept);
    }
    if (half_norms && lane == 0) half_norms[i] = float(0.5 * square);
  }
}

// Types of 16 bits, and what of them is cut off beyond: all that float16 does not hold, and of bfloat16 what would bring
// products with rows, which reach 2^41 at most, near the end of float32.
struct Half {
  static constexpr double kMost = 65504.0;
  __device__ static unsigned short bits(float v) { return gpukm_half_bits(v); }
  __device__ static float value(unsigned short b) { return gpukm_half_value(b); }
};
struct Brain {
  static constexpr double kMost = 0x1p60;
  __device__ static unsigned short bits(float v) { return gpukm_bf16_bits(v); }
  __device__ static float value(unsigned short b) { return gpukm_bf16_value(b); }
};

// In one of them. What is cut off counts as left out.
template <class Type>
__device__ void round_16(const row_t* x, const double* center, double scale, const int* order, unsigned short* values,
                         float* norms, float* residuals, float* half_norms, long long n, int d, int pitch) {
  round_rows(x, center, scale, order, values, norms, residuals, half_norms, n, d, pitch,
             [=](unsigned short* to, long long at, wide_t v, double m) {
               const double t = (double(v) - m) * scale;
               const unsigned short bits = Type::bits(float(fmin(fmax(t, -Type::kMost), Type::kMost)));
               to[at] = half_norms ? bits ^ 0x8000 : bits;
               return double(Type::value(bits));
             });
}

extern "C" __global__ void round_float16(const row_t* x, const double* center, double scale, const int* order,
                                         unsigned short* values, float* norms, float* residuals, float* half_norms,
                                         long long n, int d, int pitch) {
  round_16<Half>(x, center, scale, order, values, norms, residuals, half_norms, n, d, pitch);
}

extern "C" __global__ void round_bfloat16(const row_t* x, const double* center, double scale, const int* order,
                                          unsigned short* values, float* norms, float* residuals, float* half_norms,
                                          long long n, int d, int pitch) {
  round_16<Brain>(x, center, scale, order, values, norms, residuals, half_norms, n, d, pitch);
}

// In float32, as `centred` makes them; without `values` only what is known of them is kept.
extern "C" __global__ void round_float32(const row_t* x, const double* center, double scale, const int* order,
                                         float* values, float* norms, float* residuals, float* half_norms, long long n,
                                         int d, int pitch) {
  round_rows(x, center, scale, order, values, norms, residuals, half_norms, n, d, pitch,
             [=](float* to, long long at, wide_t v, double m) {
               const float t = centred(v, m, scale);
               if (to) to[at] = half_norms ? -t : t;
               return double(t);
             });
}

// The same rounded to the ten bits that matrix units take of float32: what these would cut off is known then.
extern "C" __global__ void round_tf32(const row_t* x, const double* center, double scale, const int* order,
                                      float* values, float* norms, float* residuals, float* half_norms, long long n,
                                      int d, int pitch) {
  round_rows(x, center, scale, order, values, norms, residuals, half_norms, n, d, pitch,
             [=](float* to, long long at, wide_t v, double m) {
               const unsigned bits = __float_as_uint(centred(v, m, scale));
               const float t = __uint_as_float((bits + 0xFFFu + (bits >> 13 & 1)) & ~0x1FFFu);
               to[at] = half_norms ? -t : t;
               return double(t);
             });
}

// Largest norm and residual of each tile of `block` centroids.
extern "C" __global__ void tile_bounds(const float* norms, const float* residuals, float* largest, float* residual,
                                       int k, int block) {
  for (int tile = blockIdx.x * blockDim.x + threadIdx.x; tile * static_cast<long long>(block) < k;
       tile += gridDim.x * blockDim.x) {
    float most = 0.0f, rest = 0.0f;
    for (long long j = tile * static_cast<long long>(block); j < k && j < (tile + 1ll) * block; ++j) {
      most = fmaxf(most, norms[j]), rest = fmaxf(rest, residuals[j]);
    }
    largest[tile] = most, residual[tile] = rest;
  }
}
