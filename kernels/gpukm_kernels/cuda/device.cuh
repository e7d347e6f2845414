// What every kernel builds on. A file is compiled once for each type of rows, GPUKM_ROW; its kernels take blocks of a
// multiple of 32 threads, and any number of blocks, which share the rows.
#pragma once

#ifndef GPUKM_EMULATE
#define GPUKM_SHARED(T, name)                                          \
  extern __shared__ __align__(16) unsigned char gpukm_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(gpukm_shared_bytes)

// Types of 16 bits as their bits, so that no header of the toolkit is needed.
__device__ inline unsigned short gpukm_half_bits(float v) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
}
__device__ inline float gpukm_half_value(unsigned short h) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
  return v;
}
// Of a number; there is an instruction from 8.0 on only.
__device__ inline unsigned short gpukm_bf16_bits(float v) {
  const unsigned bits = __float_as_uint(v);
  return static_cast<unsigned short>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}
__device__ inline float gpukm_bf16_value(unsigned short b) {
  return __uint_as_float(static_cast<unsigned>(b) << 16);
}
// d (16 x 8) += a (16 x 16) b (16 x 8), in the fragments of the PTX instruction.
__device__ inline void gpukm_mma_f16(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void gpukm_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline unsigned gpukm_shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
__device__ inline void gpukm_ldmatrix_x4(unsigned r[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(gpukm_shared_address(p)));
}
// Sixteen bytes on their way to shared memory, in groups that are waited for until at most N are under way.
__device__ inline void gpukm_copy_async16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(gpukm_shared_address(to)), "l"(from));
}
__device__ inline void gpukm_copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int N>
__device__ inline void gpukm_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}
#endif

// Numbers of 16 bits, which become float32 where they are read: float16 and bfloat16.
struct gpukm_half {
  unsigned short bits;
  __device__ operator float() const { return gpukm_half_value(bits); }
};
struct gpukm_brain {
  unsigned short bits;
  __device__ operator float() const { return gpukm_bf16_value(bits); }
};

template <class T>
struct Wide {
  typedef float type;
};
template <>
struct Wide<double> {
  typedef double type;
};

// Numbers of rows as they are stored, and of all that is made of rows: centroids, points, copies.
typedef GPUKM_ROW row_t;
typedef Wide<row_t>::type wide_t;

constexpr unsigned kAll = 0xFFFFFFFFu;  // every lane of a warp

// The first of what this block takes where blocks share n pieces, and the step to its next.
#define GPUKM_SHARE(i, n) (long long i = blockIdx.x; i < (n); i += gridDim.x)

__device__ inline double infinity() { return __longlong_as_double(0x7FF0000000000000ll); }

// Bits of v >= 0, which order as the numbers do; -0 counts as +0.
__device__ inline unsigned long long ordered_bits(double v) {
  return static_cast<unsigned long long>(__double_as_longlong(v + 0.0));
}

// Sums over a warp; every lane gets them.
template <class T>
__device__ inline T warp_sum(T v) {
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)) of the values of eight neighbouring lanes, each of which gets it.
__device__ inline double lane_tree(double q) {
  q += __shfl_xor_sync(kAll, q, 4);
  q += __shfl_xor_sync(kAll, q, 2);
  return q + __shfl_xor_sync(kAll, q, 1);
}

// D(x, c) by eight neighbouring lanes: lane l adds the squares of features l, l + 8, ... from +0. All lanes of the warp
// take part, with the same d.
template <class X>
__device__ inline double lane_distance(const X* x, const wide_t* c, int d) {
  double q = 0.0;
  for (int f = threadIdx.x & 7; f < d; f += 8) {
    const double difference = double(x[f]) - double(c[f]);
    q += difference * difference;
  }
  return lane_tree(q);
}
