// Numbers for the data of native tests.
#pragma once

#include <cstdint>

namespace gpukm {

// SplitMix64 (Steele, Lea and Flood, 2014); no library function decides a bit of the data.
class Draws {
 public:
  explicit Draws(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }
  // Four uniform numbers added: bell-shaped, variance about one third, exact in float64.
  double bell() {
    int64_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += int64_t(next() >> 32) - (int64_t(1) << 31);
    return double(sum) * 0x1p-32;
  }

 private:
  uint64_t state_;
};

}  // namespace gpukm
