// A kernel of every kind of parameter, for the tests of the launcher.
using row_t = GPUKM_ROW;

extern "C" __global__ void __launch_bounds__(256) fill(const row_t* __restrict__ x, double* out, const long long* none,
                                                       int a, long long b, unsigned c, unsigned long long d, float e,
                                                       double f) {
  extern __shared__ unsigned char bytes[];
  const int i = threadIdx.x;
  bytes[i] = static_cast<unsigned char>(none == nullptr);
  out[i] = static_cast<double>(x[i]) * f + e + a + b + c + d + bytes[i];
}

extern "C" __global__ void other(unsigned long long* out) { *out = 1; }
