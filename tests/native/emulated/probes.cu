// Small kernels that tell whether the emulator is right, and some that it must not let pass.
#include "probes.cuh"

// -------------------------------------------------------------------------------------------------- order and barriers

extern "C" __global__ void order(int* threads, int* blocks, int* n_threads, int* n_blocks, int meetings,
                                 int of_block) {
  if (threadIdx.x == 0) blocks[atomicAdd(n_blocks, 1)] = blockIdx.x;
  for (int i = 0; i <= meetings; ++i) {
    if (i && of_block) __syncthreads();
    if (i && !of_block) __syncwarp();
    threads[atomicAdd(n_threads, 1)] = threadIdx.x;
  }
}

// Values go round the block n times; without the first barrier of a turn they are read too soon, without the second
// overwritten too soon.
extern "C" __global__ void turn(float* out, int n, int before, int after) {
  __shared__ float shared[1024];
  float v = threadIdx.x;
  for (int i = 0; i < n; ++i) {
    shared[threadIdx.x] = v;
    if (before) __syncthreads();
    v = shared[(threadIdx.x + 1) % blockDim.x];
    if (after) __syncthreads();
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

extern "C" __global__ void vote_of_block(const int* v, int* out) {
  const int i = threadIdx.x;
  const int any = __syncthreads_or(v[i]);
  const int all = __syncthreads_and(v[i]);
  out[i] = any + 2 * all + 4 * __syncthreads_count(v[i]);
}

// Threads from `left` on end before the barrier.
extern "C" __global__ void early(int* out, int left) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  if (threadIdx.x >= left) return;
  atomicAdd(&sum, 1);
  __syncthreads();
  out[threadIdx.x] = sum;
}

extern "C" __global__ void divergent(int* out, int n) {
  if (threadIdx.x < n) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

extern "C" __global__ void stuck(int* out, int n) {
  if (threadIdx.x < n) __syncthreads();
  out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
}

// --------------------------------------------------------------------------------------------------------- collectives

extern "C" __global__ void shuffle(const row_t* v, row_t* out, int kind, int by, int width, unsigned mask) {
  const int i = threadIdx.x;
  if (!(mask >> (i & 31) & 1)) return;
  if (kind == 0) out[i] = __shfl_sync(mask, v[i], by, width);
  if (kind == 1) out[i] = __shfl_up_sync(mask, v[i], by, width);
  if (kind == 2) out[i] = __shfl_down_sync(mask, v[i], by, width);
  if (kind == 3) out[i] = __shfl_xor_sync(mask, v[i], by, width);
}

// Each in its own width; the sums of all lanes.
extern "C" __global__ void widths(long long* out) {
  const int i = threadIdx.x;
  out[0 * 32 + i] = __shfl_xor_sync(~0u, i - 7, 1);
  out[1 * 32 + i] = __shfl_xor_sync(~0u, 0xFFFFFFF0u + i, 1);
  out[2 * 32 + i] = __shfl_xor_sync(~0u, (i - 7) * 0x100000000ll, 1);
  out[3 * 32 + i] = __double_as_longlong(__shfl_xor_sync(~0u, double(i) / 3, 1));
}

// Lanes of even number name each other, and so do the odd ones.
extern "C" __global__ void halves(int* out) {
  const int i = threadIdx.x;
  const unsigned even = 0x55555555u;
  out[i] = i % 2 ? __reduce_add_sync(~even, i) : __reduce_add_sync(even, i);
}

extern "C" __global__ void votes(const int* v, long long* out) {
  const int i = threadIdx.x;
  long long* to = out + i;
  to[0 * 32] = __ballot_sync(~0u, v[i] > 0);
  to[1 * 32] = __any_sync(~0u, v[i] > 100) + 2 * __any_sync(~0u, v[i] == v[3]);
  to[2 * 32] = __all_sync(~0u, v[i] > -100) + 2 * __all_sync(~0u, v[i] == v[3]);
  to[3 * 32] = __match_any_sync(~0u, v[i]);
  to[4 * 32] = __match_any_sync(~0u, static_cast<long long>(v[i]) << 40);
  to[5 * 32] = __reduce_add_sync(~0u, v[i]);
  to[6 * 32] = __reduce_min_sync(~0u, v[i]);
  to[7 * 32] = __reduce_max_sync(~0u, v[i]);
  to[8 * 32] = __reduce_min_sync(~0u, unsigned(v[i]));
  to[9 * 32] = __reduce_max_sync(~0u, unsigned(v[i]));
  to[10 * 32] = __reduce_and_sync(~0u, unsigned(v[i])) ^ __reduce_or_sync(~0u, unsigned(v[i])) << 1;
  to[11 * 32] = __reduce_xor_sync(~0u, unsigned(v[i]));
}

// Lanes from n on end, and then no lane waits for them, but from the one at `from` the others read.
extern "C" __global__ void left_alone(int* out, int n, int from) {
  if (threadIdx.x >= n) return;
  __syncwarp();
  out[threadIdx.x] = __shfl_sync(~0u, int(threadIdx.x), from);
}

// The lower lanes name one of the upper, or another collective.
extern "C" __global__ void mismatched(int* out, int masks) {
  const bool lower = threadIdx.x < 16;
  if (masks) {
    __syncwarp(lower ? 0x1FFFFu : ~0u);
  } else if (lower) {
    out[threadIdx.x] = __any_sync(~0u, 1);
  } else {
    out[threadIdx.x] = __all_sync(~0u, 1);
  }
}

// Meetings of several groups in turns, which lanes come to at different times.
extern "C" __global__ void nested(int* out) {
  const int i = threadIdx.x;
  int v = i;
  if (i < 16) v = __shfl_xor_sync(0xFFFFu, v, 8);
  if (i % 2) v = __shfl_xor_sync(0xAAAAAAAAu, v, 16);
  if (i >= 24) v = __shfl_xor_sync(0xFF000000u, v, 1);
  out[i] = __shfl_xor_sync(~0u, v, 31);
}

extern "C" __global__ void not_named(int* out) { out[threadIdx.x] = __ballot_sync(0xFFFEu, 1); }

extern "C" __global__ void active(unsigned* out) { out[threadIdx.x] = __activemask(); }

// ------------------------------------------------------------------------------------------------------------- atomics

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, long long* s, float* f, double* d) {
  const int t = threadIdx.x;
  atomicAdd(i + 0, t), atomicMin(i + 1, -t), atomicMax(i + 2, t), atomicExch(i + 3, 5), atomicSub(i + 4, t);
  atomicAdd(u + 0, t), atomicAnd(u + 1, ~(1u << t % 32)), atomicOr(u + 2, 1u << t % 32), atomicXor(u + 3, t);
  atomicMin(u + 4, 0x80000000u + t), atomicMax(u + 5, 0x80000000u + t), atomicInc(u + 6, 9);
  atomicAdd(l + 0, 1ull << 40), atomicMin(l + 1, ~0ull - t), atomicMax(l + 2, ~0ull - t);
  atomicMin(s + 0, -1ll - t), atomicMax(s + 1, -1ll - t);
  atomicAdd(f, 0.5f), atomicAdd(d, 0.25);
  // What adding by comparing and swapping makes of it.
  unsigned long long old = l[3], seen;
  while ((seen = atomicCAS(l + 3, old, old + t)) != old) old = seen;
}

// -------------------------------------------------------------------------------------------------------------- memory

extern "C" __global__ void write_at(float* out, const float* unused, long long at) { out[at] = 1.0f; }

extern "C" __global__ void write_dynamic(float* out, int at) {
  GPUKM_SHARED(float, shared);
  shared[at] = 1.0f;
  out[0] = shared[at];
}

extern "C" __global__ void write_static(float* out, int at) {
  __shared__ float shared[32];
  shared[at] = 1.0f;
  __syncthreads();
  out[0] = shared[at];
}

// What shared memory holds before it is written, in every block.
extern "C" __global__ void unwritten(unsigned* out, int n) {
  __shared__ unsigned fixed[8];
  GPUKM_SHARED(unsigned, shared);
  const int i = threadIdx.x;
  unsigned* to = out + (blockIdx.x * blockDim.x + i) * 3;
  to[0] = fixed[i], to[1] = shared[n - 1], to[2] = first_seen(i ? 0 : 1u);
  __syncthreads();
  fixed[i] = 1, shared[n - 1] = 1;
}

extern "C" __global__ void misaligned(float* out, int at) {
  *reinterpret_cast<float4*>(out + at) = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
}

extern "C" __global__ void endless(const int* go_on) {
  const volatile int* now = go_on;
  while (*now) {
  }
}
extern "C" __global__ void endless_meetings(const int* go_on) {
  while (*go_on) __syncwarp();
}

extern "C" __global__ void divide(int* out, int by) { out[0] = 7 / by; }
extern "C" __global__ void shift(int* out, int by) { out[0] = 1 << by; }
extern "C" __global__ void overflow(long long* out, long long v) { out[0] = v + 1; }
extern "C" __global__ void to_integer(int* out, double v) { out[0] = int(v); }

__device__ __noinline__ int deep(int n, volatile int* to) {
  volatile int local[64];
  for (int i = 0; i < 64; ++i) local[i] = n ^ to[0];
  return n ? deep(n - 1, to) ^ local[n % 64] : local[0];
}
extern "C" __global__ void recurse(int* out, int n, int waits) {
  if (waits) __syncthreads();
  out[0] = deep(n, out);
}

// -------------------------------------------------------------------------------------------------------------- copies

// Two groups of 16 bytes a thread: what is there at once, once one group may be under way, and once none may.
extern "C" __global__ void copies(const float* from, float* out, int n) {
  GPUKM_SHARED(float, shared);
  const int i = threadIdx.x;
  float* own_part = shared + i * 8;
  for (int f = 0; f < 8; ++f) own_part[f] = 0.0f;
  gpukm_copy_async16(own_part, from + i * 8);
  gpukm_copy_commit();
  gpukm_copy_async16(own_part + 4, from + i * 8 + 4);
  if (n >= 0) gpukm_copy_commit();
  float* to = out + i * 24;
  for (int f = 0; f < 8; ++f) to[f] = own_part[f];
  gpukm_copy_wait<1>();
  for (int f = 0; f < 8; ++f) to[8 + f] = own_part[f];
  gpukm_copy_wait<0>();
  for (int f = 0; f < 8; ++f) to[16 + f] = own_part[f];
}

extern "C" __global__ void copy_to(const float* from, float* to, int skipped, int bytes) {
  GPUKM_SHARED(char, shared);
  gpukm_copy_async16(to ? reinterpret_cast<char*>(to) : shared + bytes, from + skipped);
}

// -------------------------------------------------------------------------------------------------------- matrix units

// Registers as the lanes hold them: a (32, 4), b (32, 2), d (32, 4).
extern "C" __global__ void multiply(const unsigned* a, const unsigned* b, float* d, int kind) {
  const int i = threadIdx.x;
  if (kind == 0) gpukm_mma_f16(d + 4 * i, a + 4 * i, b + 2 * i);
  if (kind == 1) gpukm_mma_bf16(d + 4 * i, a + 4 * i, b + 2 * i);
  if (kind == 2) gpukm_mma_tf32(d + 4 * i, a + 4 * i, b + 2 * i);
}

// d (16, 8) = a (16, 16) b (16, 8), both by rows, as a kernel does it: fragments by ldmatrix, those of b transposed.
extern "C" __global__ void product(const unsigned short* a, const unsigned short* b, float* d) {
  __shared__ __align__(16) unsigned short left[16][16], right[16][8];
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) left[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) right[i / 8][i % 8] = b[i];
  __syncwarp();
  unsigned x[4], y[4];
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  gpukm_ldmatrix_x4(x, &left[lane % 16][lane / 16 * 8]);
  gpukm_ldmatrix_x4_trans(y, &right[lane % 16][0]);
  gpukm_mma_f16(sum, x, y);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// Four matrices (4, 8, 8), and the registers that lanes get of them.
extern "C" __global__ void load(const unsigned short* matrices, unsigned* out, int trans, int skipped) {
  __shared__ __align__(16) unsigned short shared[4 * 64 + 8];
  for (int i = threadIdx.x; i < 256; i += 32) shared[i] = matrices[i];
  __syncwarp();
  const unsigned short* row = (skipped < 0 ? matrices : shared + skipped) + threadIdx.x * 8;
  if (trans) {
    gpukm_ldmatrix_x4_trans(out + threadIdx.x * 4, row);
  } else {
    gpukm_ldmatrix_x4(out + threadIdx.x * 4, row);
  }
}

extern "C" __global__ void half_warp(float* d) {
  const unsigned zero[4] = {0, 0, 0, 0};
  if (threadIdx.x < 16) gpukm_mma_f16(d, zero, zero);
}

// ---------------------------------------------------------------------------------------------------------- arithmetic

extern "C" __global__ void halves_of(const float* v, unsigned short* half, unsigned short* brain, float* back, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half[i] = gpukm_half_bits(v[i]), brain[i] = gpukm_bf16_bits(v[i]);
  back[2 * i] = gpukm_half_value(half[i]), back[2 * i + 1] = gpukm_bf16_value(brain[i]);
}

extern "C" __global__ void rounded(const float* a, const float* b, const double* c, float* out, double* wide, int n) {
  const int i = threadIdx.x;
  float* f = out + i;
  f[0 * n] = __fadd_ru(a[i], b[i]), f[1 * n] = __fadd_rd(a[i], b[i]), f[2 * n] = __fadd_rn(a[i], b[i]);
  f[3 * n] = __fmul_ru(a[i], b[i]), f[4 * n] = __fmul_rd(a[i], b[i]), f[5 * n] = __fmul_rn(a[i], b[i]);
  f[6 * n] = __double2float_ru(c[i]), f[7 * n] = __double2float_rd(c[i]), f[8 * n] = __double2float_rn(c[i]);
  f[9 * n] = __fmaf_ru(a[i], b[i], a[i]), f[10 * n] = __fmaf_rd(a[i], b[i], a[i]);
  f[11 * n] = __fmaf_rn(a[i], b[i], a[i]);
  f[12 * n] = __fsqrt_ru(fabs(a[i])), f[13 * n] = __fsqrt_rd(fabs(a[i])), f[14 * n] = __fsqrt_rn(fabs(a[i]));
  double* w = wide + i;
  w[0 * n] = __dadd_ru(c[i], b[i]), w[1 * n] = __dadd_rd(c[i], b[i]), w[2 * n] = __dadd_rn(c[i], b[i]);
  w[3 * n] = __dmul_ru(c[i], c[i]), w[4 * n] = __dmul_rd(c[i], c[i]), w[5 * n] = __dmul_rn(c[i], c[i]);
}

extern "C" __global__ void converted(const double* v, long long* out, int n) {
  const int i = threadIdx.x;
  long long* to = out + i;
  const float f = float(v[i]);
  to[0 * n] = __double2ll_rn(v[i]), to[1 * n] = __double2ll_rz(v[i]), to[2 * n] = __float2ll_rn(f);
  to[3 * n] = __double2int_rn(v[i]), to[4 * n] = __float2int_rz(f);
  to[5 * n] = static_cast<long long>(__double2ull_rn(v[i])), to[6 * n] = __float2uint_rn(f);
}

extern "C" __global__ void bits(const unsigned long long* v, long long* out, int n) {
  const int i = threadIdx.x;
  long long* to = out + i;
  const unsigned low = unsigned(v[i]);
  to[0 * n] = __popc(low), to[1 * n] = __popcll(v[i]), to[2 * n] = __clz(int(low));
  to[3 * n] = __clzll(static_cast<long long>(v[i])), to[4 * n] = __ffs(int(low));
  to[5 * n] = __ffsll(static_cast<long long>(v[i])), to[6 * n] = __brev(low), to[7 * n] = __umulhi(low, 0x9E3779B9u);
  to[8 * n] = static_cast<long long>(__umul64hi(v[i], 0x9E3779B97F4A7C15ull));
  to[9 * n] = __mul64hi(static_cast<long long>(v[i]), -0x1E3779B97F4A7C15ll);
  to[10 * n] = min(low, 77u) + max(3, -4) + min(-5ll, 7ll) + static_cast<long long>(max(1.5f, 2.5));
  to[11 * n] = __float_as_uint(__uint_as_float(low & 0x7F7FFFFFu)) + (__float_as_int(1.0f) ^ 0x3F800000);
  to[12 * n] = __double_as_longlong(__longlong_as_double(static_cast<long long>(v[i] >> 2)));
}
