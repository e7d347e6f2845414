#include "common.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "dispatch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gpukm {

void* allocate(size_t bytes) {
  void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!p) throw std::bad_alloc();
  return p;
}

void deallocate(void* p) { std::free(p); }

void sort_by_norm(const int32_t* groups, const double* norms, const void* rows, size_t row_bytes, int64_t k, int32_t* order) {
  const char* bytes = static_cast<const char*>(rows);
  std::iota(order, order + k, 0);
  std::sort(order, order + k, [=](int32_t a, int32_t b) {
    if (groups && groups[a] != groups[b]) return groups[a] < groups[b];
    if (norms[a] != norms[b]) return norms[a] < norms[b];
    int c = std::memcmp(bytes + size_t(a) * row_bytes, bytes + size_t(b) * row_bytes, row_bytes);
    return c != 0 ? c < 0 : a < b;
  });
}

void sort_by_shift(const float* shifts, int64_t k, int32_t* order) {
  std::iota(order, order + k, 0);
  std::sort(order, order + k, [=](int32_t a, int32_t b) {
    return shifts[a] != shifts[b] ? shifts[a] > shifts[b] : a < b;
  });
}

int thread_number() { return omp_get_thread_num(); }
int team_size() { return omp_get_num_threads(); }

#if defined(__x86_64__)
// Bits 6 and 15: denormals are zero, flush to zero; 13 and 14: rounding.
FloatMode::FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(uint32_t(saved_) & ~0xE040u); }
FloatMode::~FloatMode() { _mm_setcsr(uint32_t(saved_)); }
#elif defined(__aarch64__)
// Bit 24: flush to zero; 22 and 23: rounding.
FloatMode::FloatMode() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(saved_ & ~(uint64_t(7) << 22)));
}
FloatMode::~FloatMode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
FloatMode::FloatMode() : saved_(0) {}
FloatMode::~FloatMode() {}
#endif

const Table* choose(const char* forced) {
  const Table* runnable[5];
  int n = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_vnni = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
  // Zen 4 splits 512-bit work in two and pays for 512-bit broadcasts (kernels/README.md).
  const bool narrow_first = __builtin_cpu_is("amdfam19h");
  if (has_vnni && narrow_first) runnable[n++] = table_vnni();
  if (has_vnni) runnable[n++] = table_avx512();
  if (has_vnni && !narrow_first) runnable[n++] = table_vnni();
  if (has_avx2) runnable[n++] = table_avx2();
#elif defined(__aarch64__)
  runnable[n++] = table_neon();
#endif
  runnable[n++] = table_portable();
  if (!forced || !*forced) return runnable[0];
  for (int i = 0; i < n; ++i)
    if (std::strcmp(runnable[i]->name, forced) == 0) return runnable[i];
  return nullptr;
}

namespace {
// A forked child inherits libgomp's idea of a thread pool but not its threads, and would wait for them for ever.
void release_threads() {
  if (!omp_in_parallel()) omp_pause_resource_all(omp_pause_soft);
}
const int registered = pthread_atfork(release_threads, nullptr, nullptr);
}  // namespace

}  // namespace gpukm
