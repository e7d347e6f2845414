// What every instruction set shares. Compiled once, for the baseline, so that no unit leaks its instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpukm {

// 64-byte aligned memory; throws std::bad_alloc when there is none.
void* allocate(size_t bytes);
void deallocate(void* p);

// Sorts `order` (0 .. k-1) by group (where not null), norm, the bytes of the rows, and index.
void sort_by_norm(const int32_t* groups, const double* norms, const void* rows, size_t row_bytes, int64_t k, int32_t* order);

// Sorts `order` (0 .. k-1) by descending shift, and index.
void sort_by_shift(const float* shifts, int64_t k, int32_t* order);

int thread_number();
int team_size();

// IEEE arithmetic while it lives: round to nearest, no flush to zero; other libraries may have changed both.
class FloatMode {
 public:
  FloatMode();
  ~FloatMode();
  FloatMode(const FloatMode&) = delete;

 private:
  uint64_t saved_;
};

// An uninitialised array that frees itself.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) : n_(n), p_(static_cast<T*>(allocate(size_t(n > 0 ? n : 1) * sizeof(T)))) {}
  ~Buffer() { deallocate(p_); }
  Buffer(const Buffer&) = delete;
  T& operator[](int64_t i) { return p_[i]; }
  const T& operator[](int64_t i) const { return p_[i]; }
  T* data() { return p_; }
  const T* data() const { return p_; }
  int64_t size() const { return n_; }
  void free() {
    deallocate(p_);
    n_ = 0, p_ = nullptr;
  }
  void zero() { __builtin_memset(static_cast<void*>(p_), 0, size_t(n_) * sizeof(T)); }

 private:
  int64_t n_;
  T* p_;
};

}  // namespace gpukm
