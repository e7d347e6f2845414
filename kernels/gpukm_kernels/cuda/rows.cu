// Looking at rows and picking some.
#include "device.cuh"

// out[i] = x[rows[i]], or x[i] where rows is null.
extern "C" __global__ void gather(const row_t* x, const long long* rows, wide_t* out, long long n, int d) {
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n * d;
       i += static_cast<long long>(gridDim.x) * blockDim.x)
    out[i] = rows ? x[rows[i / d] * d + i % d] : x[i];
}

// An integer that orders as v does.
__device__ unsigned long long sortable(double v) {
  const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(v));
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// low and high (d,): bits that order as the values do, low all ones and high zero at first. A value that is not finite
// is above all others in high, and NaN of either sign counts as such.
extern "C" __global__ void column_range(const row_t* x, unsigned long long* low, unsigned long long* high, long long n,
                                        int d) {
  // A thread keeps to one feature: consecutive threads take consecutive features, and the block consecutive rows.
  const int width = d < int(blockDim.x) ? d : int(blockDim.x), rows = int(blockDim.x) / width;
  const int own = int(threadIdx.x) / width;
  if (own >= rows) return;
  for (int f = int(threadIdx.x) % width; f < d; f += width) {
    unsigned long long least = ~0ull, most = 0;
    for (long long i = static_cast<long long>(blockIdx.x) * rows + own; i < n;
         i += static_cast<long long>(gridDim.x) * rows) {
      double v = double(x[i * d + f]);
      if (!(fabs(v) < infinity())) v = infinity();
      const unsigned long long bits = sortable(v);
      least = bits < least ? bits : least;
      most = bits > most ? bits : most;
    }
    atomicMin(low + f, least);
    atomicMax(high + f, most);
  }
}

// out[i] = x[i] at length one, in float64 and rounded once; squares (n,): D to the origin. zeros: rows that have none, and
// the first of these, all ones at first.
extern "C" __global__ void normalise(const row_t* x, const double* squares, wide_t* out, unsigned long long* zeros,
                                     long long n, int d) {
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n * d;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const long long row = i / d;
    const double length = sqrt(squares[row]);
    out[i] = wide_t(double(x[i]) / length);
    if (length == 0 && i % d == 0) {
      atomicAdd(zeros, 1ull);
      atomicMin(zeros + 1, static_cast<unsigned long long>(row));
    }
  }
}

// Distances from squared ones, rounded once.
extern "C" __global__ void roots(const double* squares, wide_t* out, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x)
    out[i] = wide_t(sqrt(squares[i]));
}
