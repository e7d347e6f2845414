// What a fit of a small problem adds up: numbers rounded once, over a fixed tree, and the sums of clusters.

// A carried LongSum as float64, rounded once, half to even.
inline double rounded(const LongSum& sum) {
  int top = kSumBins - 1;
  while (top >= 0 && !sum.bins[top]) --top;
  if (top < 0) return 0;
  const int length = 32 * top + 64 - __builtin_clzll(sum.bins[top]);
  // The unit is 2^-1126, and the last bit that float64 has is 2^-1074: nothing lies below.
  const int cut = length - 53 > 52 ? length - 53 : 52;
  auto bits_from = [&](int at) {
    unsigned __int128 v = 0;
    for (int i = 2; i >= 0; --i) v = v << 32 | (at / 32 + i < kSumBins ? sum.bins[at / 32 + i] : 0);
    return uint64_t(v >> (at % 32)) & ((uint64_t(1) << 54) - 1);
  };
  // One bit more than fits, and whether anything is below it.
  const uint64_t head = bits_from(cut - 1);
  bool rest = (sum.bins[(cut - 1) / 32] & ((uint64_t(1) << ((cut - 1) % 32)) - 1)) != 0;
  for (int i = 0; i < (cut - 1) / 32; ++i) rest |= sum.bins[i] != 0;
  uint64_t mantissa = head >> 1;
  if (head & 1) mantissa += rest || (mantissa & 1);
  return __builtin_ldexp(double(mantissa), cut - 1126);
}

// Sums n numbers over a fixed tree: padded with zeros to a power of two, halves added; overwrites them.
inline double fold(double* v, int64_t n) {
  int64_t size = 1;
  while (size < n) size *= 2;
  for (int64_t i = n; i < size; ++i) v[i] = 0;
  for (; size > 1; size /= 2)
    for (int64_t i = 0; i < size / 2; ++i) v[i] += v[i + size / 2];
  return v[0];
}

// The exact sum of n finite non-negative numbers, rounded once; NaN where one is not finite. Three parts of 31 bits, each
// added without rounding, hold all bits of numbers down to 2^-35 of the largest; others are left to the long sum.
inline double exact_total(const double* v, int64_t n) {
  constexpr int L = kLanes<double>;
  const int64_t whole = n / L * L;
  Vec<double> tops = {};
  for (int64_t i = 0; i < whole; i += L) tops = vmax(tops, load(v + i));
  double top = 0;
  for (int l = 0; l < L; ++l) top = tops[l] > top ? tops[l] : top;
  for (int64_t i = whole; i < n; ++i) top = v[i] > top ? v[i] : top;
  if (top > 1e-200 && top < 1e200 && n < (int64_t(1) << 20)) {
    const int e = __builtin_ilogb(top) + 1;
    Vec<double> round[3], sum[3] = {}, unheld = {};
    for (int p = 0; p < 3; ++p) round[p] = splat(1.5 * __builtin_ldexp(1.0, 52 + e - 26 - 31 * p));
    for (int64_t i = 0; i < n; i += L) {
      Vec<double> rest = {};
      if (i < whole)
        rest = load(v + i);
      else
        for (int64_t l = 0; i + l < n; ++l) rest[l] = v[i + l];
#pragma GCC unroll 3
      for (int p = 0; p < 3; ++p) {
        const Vec<double> part = (rest + round[p]) - round[p];
        sum[p] += part;
        rest -= part;
      }
      unheld += vmax(rest, -rest);
    }
    double left = 0;
    for (int l = 0; l < L; ++l) left += unheld[l];
    if (left == 0) {
      __int128 units = 0;
      for (int p = 0; p < 3; ++p)
        for (int l = 0; l < L; ++l)
          units += (__int128)(int64_t(__builtin_ldexp(sum[p][l], 26 + 31 * p - e))) << (62 - 31 * p);
      return __builtin_ldexp(double(units), e - 88);
    }
  }
  LongSum sum;
  for (int64_t i = 0; i < n; ++i) sum.add(v[i]);
  sum.carry();
  return sum.finite ? rounded(sum) : __builtin_nan("");
}

inline int64_t power_of_two(int64_t n) {
  int64_t size = 1;
  while (size < n) size *= 2;
  return size;
}

// Sums of all clusters as float64 in the two parts of exact.inl.h. They are not moved to integers: a problem's total
// stays within 2^82, and few enough rows keep the low parts exact, so hi + lo rounds the integer once.
template <class X>
struct SmallSums {
  const int64_t d, k;
  Buffer<double> hi, lo, w_hi, w_lo;
  Buffer<int64_t> counts;

  SmallSums(int64_t d_, int64_t k_)
      : d(d_), k(k_), hi(k_ * d_), lo(k_ * d_), w_hi(k_), w_lo(k_), counts(k_) {}
  void clear() {
    hi.zero();
    lo.zero();
    w_hi.zero();
    w_lo.zero();
    counts.zero();
  }
  void copy(const SmallSums& from) {
    __builtin_memcpy(hi.data(), from.hi.data(), size_t(k * d) * sizeof(double));
    __builtin_memcpy(lo.data(), from.lo.data(), size_t(k * d) * sizeof(double));
    __builtin_memcpy(w_hi.data(), from.w_hi.data(), size_t(k) * sizeof(double));
    __builtin_memcpy(w_lo.data(), from.w_lo.data(), size_t(k) * sizeof(double));
    __builtin_memcpy(counts.data(), from.counts.data(), size_t(k) * sizeof(int64_t));
  }
  // Takes a row from a cluster (none where Moves is false) to another. A weight of one changes no bit.
  template <bool Moves, bool Weighted>
  void move(const X* x, double w, int64_t from, int64_t to, const double* scales, double w_scale) {
    typedef Vec<int64_t> Bits;
    double *h = hi.data() + to * d, *g = hi.data() + from * d;
    const Vec<double> weight = splat(w), round = splat(kRoundHigh);
    constexpr int L = kLanes<double>;
    Bits rests = {};
    int64_t f = 0, rest_bits = 0;
    for (; f + L <= d; f += L) {
      const Vec<double> t = (Weighted ? weight * widen(x + f) : widen(x + f)) * load(scales + f);
      const Vec<double> high = (t + round) - round;
      store(h + f, load(h + f) + high);
      if (Moves) store(g + f, load(g + f) - high);
      rests |= Bits(t - high);
    }
    for (; f < d; ++f) {
      const double t = w * double(x[f]) * scales[f], high = (t + kRoundHigh) - kRoundHigh, rest = t - high;
      h[f] += high;
      if (Moves) g[f] -= high;
      int64_t bits;
      __builtin_memcpy(&bits, &rest, sizeof bits);
      rest_bits |= bits;
    }
    // The high part holds all bits of most float32 rows, and +0 is left.
    if (rest_bits || any_bit(rests)) move_rests<Moves>(x, w, from, to, scales);
    ++counts[to];
    if (Moves) --counts[from];
    if (Weighted) {
      double high, low;
      LimbSums<X>::term(w * w_scale, &high, &low);
      w_hi[to] += high;
      w_lo[to] += low;
      if (Moves) {
        w_hi[from] -= high;
        w_lo[from] -= low;
      }
    }
  }

 private:
  template <bool Moves>
  GPUKM_APART void move_rests(const X* x, double w, int64_t from, int64_t to, const double* scales) {
    double *l = lo.data() + to * d, *m = lo.data() + from * d;
    const Vec<double> weight = splat(w), round_high = splat(kRoundHigh), round_low = splat(kRoundLow);
    constexpr int L = kLanes<double>;
    int64_t f = 0;
    for (; f + L <= d; f += L) {
      const Vec<double> t = weight * widen(x + f) * load(scales + f), high = (t + round_high) - round_high;
      const Vec<double> low = ((t - high) + round_low) - round_low;
      store(l + f, load(l + f) + low);
      if (Moves) store(m + f, load(m + f) - low);
    }
    for (; f < d; ++f) {
      double high, low;
      LimbSums<X>::term(w * double(x[f]) * scales[f], &high, &low);
      l[f] += low;
      if (Moves) m[f] -= low;
    }
  }
};
