// Vectors of one instruction set. The including unit defines GPUKM_VECTOR_BYTES and, where it has them, one of
// GPUKM_AVX512, GPUKM_AVX2, GPUKM_NEON; GCC's vector extension does the rest.
//
// Contraction is off for the whole build, so only fma() below fuses.

template <class T, int N>
struct VecOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
constexpr int kLanes = GPUKM_VECTOR_BYTES / int(sizeof(T));
template <class T>
using Vec = typename VecOf<T, kLanes<T>>::type;

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
inline Vec<T> splat(T s) {
  return s - Vec<T>{};
}

#if defined(GPUKM_AVX512)
using Mask = uint32_t;
inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a, b, c); }
// acc += a * b on registers alone: left to itself GCC loads `a` again as a memory operand of every multiply-add, and
// 512-bit loads, one a cycle, would then be the limit.
inline void fma_into(Vec<float>& acc, Vec<float> a, Vec<float> b) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}
inline void fma_into(Vec<double>& acc, Vec<double> a, Vec<double> b) {
  asm("vfmadd231pd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}
inline Vec<float> vmin(Vec<float> a, Vec<float> b) { return _mm512_min_ps(a, b); }
inline Vec<double> vmin(Vec<double> a, Vec<double> b) { return _mm512_min_pd(a, b); }
inline Vec<float> vmax(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
inline Vec<double> vmax(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
inline Vec<float> less_select(Vec<float> a, Vec<float> b, Vec<float> yes, Vec<float> no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline Vec<double> less_select(Vec<double> a, Vec<double> b, Vec<double> yes, Vec<double> no) {
  return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
}
// Bits of the lanes where a > b does not hold, NaN included.
inline Mask not_greater(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGT_UQ); }
inline Mask not_greater(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_NGT_UQ); }
// Bits of the lanes that are negative.
inline Mask sign_bits(Vec<int32_t> v) { return _mm512_movepi32_mask(__m512i(v)); }
inline bool any_bit(Vec<int64_t> v) { return _mm512_test_epi64_mask(__m512i(v), __m512i(v)); }
#elif defined(GPUKM_AVX2)
using Mask = uint32_t;
inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a, b, c); }
inline Vec<float> vmin(Vec<float> a, Vec<float> b) { return _mm256_min_ps(a, b); }
inline Vec<double> vmin(Vec<double> a, Vec<double> b) { return _mm256_min_pd(a, b); }
inline Vec<float> vmax(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
inline Vec<double> vmax(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
inline Vec<float> less_select(Vec<float> a, Vec<float> b, Vec<float> yes, Vec<float> no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline Vec<double> less_select(Vec<double> a, Vec<double> b, Vec<double> yes, Vec<double> no) {
  return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
inline Mask not_greater(Vec<float> a, Vec<float> b) {
  return Mask(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NGT_UQ)));
}
inline Mask not_greater(Vec<double> a, Vec<double> b) {
  return Mask(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_NGT_UQ)));
}
inline Mask sign_bits(Vec<int32_t> v) { return Mask(_mm256_movemask_ps(__m256(v))); }
inline bool any_bit(Vec<int64_t> v) { return !_mm256_testz_si256(__m256i(v), __m256i(v)); }
#else
using Mask = uint32_t;
#if defined(GPUKM_NEON)
inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return vfmaq_f32(c, a, b); }
inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return vfmaq_f64(c, a, b); }
#else
// A multiply and an add: the screening bounds hold for both forms.
template <class V>
inline V fma(V a, V b, V c) {
  return a * b + c;
}
#endif
template <class V>
inline V vmin(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V vmax(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V less_select(V a, V b, V yes, V no) {
  return a < b ? yes : no;
}
template <class V>
inline Mask not_greater(V a, V b) {
  auto greater = a > b;
  Mask m = 0;
  for (int i = 0; i < int(sizeof(V) / sizeof(a[0])); ++i) m |= Mask(greater[i] == 0) << i;
  return m;
}
inline Mask sign_bits(Vec<int32_t> v) {
  Mask m = 0;
  for (int i = 0; i < kLanes<int32_t>; ++i) m |= Mask(v[i] < 0) << i;
  return m;
}
inline bool any_bit(Vec<int64_t> v) { return (v[0] | v[1]) != 0; }
#endif

#if !defined(GPUKM_AVX512)
template <class V>
inline void fma_into(V& acc, V a, V b) {
  acc = fma(a, b, acc);
}
#endif

#if defined(GPUKM_AVX512) || defined(GPUKM_AVX2)
#define GPUKM_INTEGERS 1
constexpr bool kIntegers = true;
// Adds products of pairs of 16-bit integers, x0 and x1 times the pair at `c` in every lane, to acc[0] and acc[1].
#if defined(GPUKM_AVX512) || defined(GPUKM_VNNI)
// On registers, as fma_into().
inline void add_pairs(Vec<int32_t> (&acc)[2], Vec<int32_t> x0, Vec<int32_t> x1, const void* c) {
  int32_t pair;
  __builtin_memcpy(&pair, c, sizeof pair);
  const Vec<int32_t> b = splat(pair);
  asm("vpdpwssd %2, %1, %0" : "+v"(acc[0]) : "v"(x0), "v"(b));
  asm("vpdpwssd %2, %1, %0" : "+v"(acc[1]) : "v"(x1), "v"(b));
}
#else
inline void add_pairs(Vec<int32_t> (&acc)[2], Vec<int32_t> x0, Vec<int32_t> x1, const void* c) {
  asm("vpbroadcastd %4, %%ymm15\n\tvpmaddwd %%ymm15, %2, %%ymm14\n\tvpmaddwd %%ymm15, %3, %%ymm15\n\t"
      "vpaddd %%ymm14, %0, %0\n\tvpaddd %%ymm15, %1, %1"
      : "+x"(acc[0]), "+x"(acc[1])
      : "x"(x0), "x"(x1), "m"(*static_cast<const int32_t*>(c))
      : "xmm14", "xmm15");
}
#endif
// Writes eight vectors of eight floats as the columns of out, whose rows are `stride` apart.
inline void transpose8(const __m256 (&a)[8], float* out, int64_t stride) {
  __m256 b[8], c[8];
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    c[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    c[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
    c[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    c[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * stride, _mm256_permute2f128_ps(c[i], c[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * stride, _mm256_permute2f128_ps(c[i], c[i + 4], 0x31));
  }
}
// (v - m) * scale of eight values of a row as floats, computed in the wider of the two types.
inline __m256 as_floats(const float* p, const float* m, float scale) {
  return _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(m)), _mm256_set1_ps(scale));
}
inline __m256 as_floats(const double* p, const double* m, double scale) {
  const __m256d s = _mm256_set1_pd(scale);
  const __m256d low = _mm256_mul_pd(_mm256_sub_pd(_mm256_loadu_pd(p), _mm256_loadu_pd(m)), s);
  const __m256d high = _mm256_mul_pd(_mm256_sub_pd(_mm256_loadu_pd(p + 4), _mm256_loadu_pd(m + 4)), s);
  return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}
#else
constexpr bool kIntegers = false;
#endif

typedef float Lanes8f __attribute__((vector_size(32)));

inline Lanes8f load8f(const float* p) {
  Lanes8f v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store8f(float* p, Lanes8f v) { __builtin_memcpy(p, &v, sizeof v); }
inline float absolute(float v) { return __builtin_fabsf(v); }
inline Vec<double> absolute(Vec<double> v) { return v < 0.0 ? -v : v; }
inline Lanes8f absolute(Lanes8f v) { return v < 0.0f ? -v : v; }
template <class M>
inline bool all_of(M mask) {
  bool all = true;
  for (int r = 0; r < 8; ++r) all &= mask[r] != 0;
  return all;
}
