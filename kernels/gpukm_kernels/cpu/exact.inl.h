// What is defined to the bit: D, and the order-free sums.

// kLanes<double> values as float64.
inline Vec<double> widen(const double* p) { return load(p); }
#if defined(GPUKM_AVX512)
inline Vec<double> widen(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
#elif defined(GPUKM_AVX2)
inline Vec<double> widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
#else
inline Vec<double> widen(const float* p) {
  VecOf<float, kLanes<double>>::type v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<double>);
}
#endif

// Eight sums in registers; vectors wider than the processor's would go through memory.
struct EightSums {
  static constexpr int kWidth = kLanes<double>, kVectors = 8 / kWidth;
  Vec<double> q[kVectors] = {};

  // Adds term(f) .. term(f + kWidth - 1) for all features, those of f to lane f mod 8; `one` makes a single term.
  template <class Term, class One>
  void add(int64_t d, Term term, One one) {
    int64_t f = 0;
    for (; f + 8 <= d; f += 8)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) q[v] += term(f + v * kWidth);
    if (f == d) return;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v, f += kWidth) {
      if (f + kWidth <= d) {
        q[v] += term(f);
      } else if (f < d) {
        // +0 changes no bit of a sum that began with +0.
        double tail[kWidth] = {};
        for (int l = 0; l < kWidth && f + l < d; ++l) tail[l] = one(f + l);
        q[v] += load(tail);
      }
    }
  }
  double total() const {
    if constexpr (kVectors == 4)
      return tree((q[0] + q[2]) + (q[1] + q[3]));
    else if constexpr (kVectors == 2)
      return tree(q[0] + q[1]);
    else
      return tree(q[0]);
  }

 private:
  // ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)), or the end of it.
  template <class V>
  static double tree(V s) {
    if constexpr (kWidth == 2)
      return s[0] + s[1];
    else if constexpr (kWidth == 4)
      return (s[0] + s[2]) + (s[1] + s[3]);
    else
      return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
  }
};

// D(x, c): lane l adds the squares of features l, l + 8, ... from +0; then a fixed tree. Never fused.
template <class X>
inline double exact_distance(const X* x, const X* c, int64_t d) {
  if (d <= 4) {
    // The tree with the lanes left out that hold +0, which changes no bit of a square.
    double q[4] = {};
    for (int64_t l = 0; l < d; ++l) {
      const double diff = double(x[l]) - double(c[l]);
      q[l] = diff * diff;
    }
    return (q[0] + q[2]) + (q[1] + q[3]);
  }
  EightSums sums;
  sums.add(
      d,
      [&](int64_t f) {
        const Vec<double> diff = widen(x + f) - widen(c + f);
        return diff * diff;
      },
      [&](int64_t f) {
        const double diff = double(x[f]) - double(c[f]);
        return diff * diff;
      });
  return sums.total();
}

template <class X>
void distances(const X* x, int64_t n, int64_t d, const X* c, const int32_t* labels, double* out, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i) out[i] = exact_distance(x + i * d, c + int64_t(labels[i]) * d, d);
  }
}

// A sum of non-negative float64 as one long integer in units of 2^-1126: bin i counts 2^(32 i) units.
struct LongSum {
  uint64_t bins[kSumBins] = {};
  bool finite = true;

  void add(double v) {
    uint64_t bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    const uint64_t biased = bits >> 52;
    finite &= biased < 2047;
    const uint64_t mantissa = (bits & 0xFFFFFFFFFFFFF) | (biased ? uint64_t(1) << 52 : 0);
    const uint64_t at = (biased ? biased : 1) + 51, shift = at & 31;
    const uint64_t low = mantissa << shift, high = shift ? mantissa >> (64 - shift) : 0;
    bins[at >> 5] += low & 0xFFFFFFFF;
    bins[(at >> 5) + 1] += low >> 32;
    bins[(at >> 5) + 2] += high;
  }
  // Every addition is below 2^32, so a bin holds as many of them before it must carry.
  void carry() {
    for (int i = 0; i + 1 < kSumBins; ++i) {
      bins[i + 1] += bins[i] >> 32;
      bins[i] &= 0xFFFFFFFF;
    }
  }
};

template <class X>
bool total(const X* x, const double* w, int64_t n, int64_t d, const X* c, const int32_t* labels, uint64_t* bins,
           int threads) {
  constexpr int64_t kRows = 1 << 16;
  LongSum all;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    LongSum sum;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < n; start += kRows) {
      const int64_t stop = start + kRows < n ? start + kRows : n;
      for (int64_t i = start; i < stop; ++i) {
        const double v = exact_distance(x + i * d, labels ? c + int64_t(labels[i]) * d : c, d);
        sum.add(w ? w[i] * v : v);
      }
      sum.carry();
    }
#pragma omp critical(gpukm_total)
    {
      for (int i = 0; i < kSumBins; ++i) all.bins[i] += sum.bins[i];
      all.carry();
      all.finite &= sum.finite;
    }
  }
  __builtin_memcpy(bins, all.bins, sizeof all.bins);
  return all.finite;
}

// Rows laid side by side, so that few features still fill vectors.
constexpr int64_t kRangeWidth = 256;

template <class X>
void column_range(const X* x, int64_t n, int64_t d, double* low, double* high, int threads) {
  for (int64_t f = 0; f < d; ++f) {
    low[f] = __builtin_inf();
    high[f] = -__builtin_inf();
  }
  const int64_t side = d < kRangeWidth ? kRangeWidth / d : 1, width = side * d;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Buffer<X> least(width), most(width), bad(width);
    for (int64_t j = 0; j < width; ++j) {
      least[j] = X(__builtin_inf());
      most[j] = -X(__builtin_inf());
      bad[j] = 0;
    }
    const int64_t t = thread_number(), team = team_size(), r0 = n * t / team, r1 = n * (t + 1) / team;
    X *l = least.data(), *m = most.data(), *b = bad.data();
    for (int64_t i = r0; i < r1; i += side) {
      const X* p = x + i * d;
      const int64_t end = i + side < r1 ? width : (r1 - i) * d;
      for (int64_t j = 0; j < end; ++j) {
        const X v = p[j];
        l[j] = v < l[j] ? v : l[j];
        m[j] = v > m[j] ? v : m[j];
        // NaN once a value was not finite.
        b[j] += v - v;
      }
    }
#pragma omp critical(gpukm_range)
    for (int64_t j = 0; j < width; ++j) {
      const int64_t f = j % d;
      const double v = b[j] == 0 ? 0.0 : __builtin_nan("");
      low[f] = (double(l[j]) < low[f] ? double(l[j]) : low[f]) + v;
      high[f] = (double(m[j]) > high[f] ? double(m[j]) : high[f]) + v;
    }
  }
}

template <class X>
void cross(const X* x, int64_t n, int64_t d, const X* p, int64_t m, double* out, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) out[i * m + j] = exact_distance(x + i * d, p + j * d, d);
  }
}

template <class X>
void lower(const X* x, int64_t n, int64_t d, const X* p, int64_t m, double* nearest, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      double best = nearest[i];
      for (int64_t j = 0; j < m; ++j) {
        double v = exact_distance(x + i * d, p + j * d, d);
        best = v < best ? v : best;
      }
      nearest[i] = best;
    }
  }
}

template <class X>
void potentials(const X* x, const double* w, int64_t n, int64_t d, const X* p, int64_t m, const double* nearest,
                double scale, int64_t* out, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Buffer<int64_t> mine(m);
    mine.zero();
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      double weight = w ? w[i] : 1.0;
      for (int64_t j = 0; j < m; ++j) {
        double v = exact_distance(x + i * d, p + j * d, d);
        v = v < nearest[i] ? v : nearest[i];
        mine[j] += int64_t(__builtin_rint(weight * v * scale));
      }
    }
#pragma omp critical(gpukm_potentials)
    for (int64_t j = 0; j < m; ++j) out[j] += mine[j];
  }
}

// Order-free sums on a power-of-two grid, in two limbs S = hi * 2^32 + lo. A term t = fl64(w x) 2^s has |t| <= 2^82.
// Adding and subtracting 1.5 * 2^(52 + b) rounds a float64 to a multiple of 2^b, half to even, for |t| < 2^(51 + b).
constexpr double kRoundHigh = 1.5 * 4503599627370496.0 * 4294967296.0;
constexpr double kRoundLow = 1.5 * 4503599627370496.0;
// Low parts reach 2^31, so this many of them stay exact in a float64 sum.
constexpr int64_t kFlushRows = int64_t(1) << 21;

// The first of n > 0 ascending prefix sums that exceeds the target, or the last.
template <class T>
inline int64_t first_above(const T* prefix, int64_t n, T target) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (prefix[middle] > target)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// Float64 sums of one thread, exact until flushed into the integers; those of a cluster begin with its first row.
template <class X>
struct LimbSums {
  int64_t d, first, last;  // clusters [first, last)
  Buffer<double> hi, lo, w_hi, w_lo;
  Buffer<int64_t> counts;
  Buffer<uint8_t> begun;
  int64_t rows = 0;
  bool weighted;

  LimbSums(int64_t d_, int64_t first_, int64_t last_, bool weighted_)
      : d(d_), first(first_), last(last_), hi((last_ - first_) * d_), lo((last_ - first_) * d_),
        w_hi(weighted_ ? last_ - first_ : 0), w_lo(weighted_ ? last_ - first_ : 0), counts(last_ - first_), begun(last_ - first_),
        weighted(weighted_) {
    begun.zero();
  }
  void begin(int64_t j) {
    __builtin_memset(static_cast<void*>(hi.data() + j * d), 0, size_t(d) * sizeof(double));
    __builtin_memset(static_cast<void*>(lo.data() + j * d), 0, size_t(d) * sizeof(double));
    if (weighted) w_hi[j] = w_lo[j] = 0;
    counts[j] = 0;
    begun[j] = 1;
  }
  static void term(double t, double* h, double* l) {
    double high = (t + kRoundHigh) - kRoundHigh;
    *h = high;
    *l = ((t - high) + kRoundLow) - kRoundLow;
  }
  template <int Sign>
  void add(const X* x, double w, int64_t cluster, const double* scales, double w_scale) {
    if (!begun[cluster - first]) begin(cluster - first);
    double* h = hi.data() + (cluster - first) * d;
    double* l = lo.data() + (cluster - first) * d;
    int64_t f = 0;
    constexpr int L = kLanes<double>;
    const Vec<double> round_high = splat(kRoundHigh), round_low = splat(kRoundLow), weight = splat(w);
    for (; f + L <= d; f += L) {
      // A weight of one changes no bit.
      const Vec<double> t = weight * widen(x + f) * load(scales + f);
      const Vec<double> high = (t + round_high) - round_high, low = ((t - high) + round_low) - round_low;
      store(h + f, Sign > 0 ? load(h + f) + high : load(h + f) - high);
      store(l + f, Sign > 0 ? load(l + f) + low : load(l + f) - low);
    }
    for (; f < d; ++f) {
      double high, low;
      term(w * double(x[f]) * scales[f], &high, &low);
      h[f] += Sign * high;
      l[f] += Sign * low;
    }
    counts[cluster - first] += Sign;
    if (weighted) {
      double high, low;
      term(w * w_scale, &high, &low);
      w_hi[cluster - first] += Sign * high;
      w_lo[cluster - first] += Sign * low;
    }
    ++rows;
  }
  // Puts sums of clusters [from, to) into the integers.
  void flush(int64_t from, int64_t to, int64_t* out_hi, int64_t* out_lo, int64_t* out_counts, int64_t* out_w_hi,
             int64_t* out_w_lo) {
    for (int64_t j = from - first; j < to - first; ++j) {
      if (!begun[j]) continue;
      begun[j] = 0;
      for (int64_t i = j * d; i < (j + 1) * d; ++i) {
        out_hi[first * d + i] += int64_t(hi[i] * (1.0 / 4294967296.0));
        out_lo[first * d + i] += int64_t(lo[i]);
      }
      out_counts[first + j] += counts[j];
      if (weighted) {
        out_w_hi[first + j] += int64_t(w_hi[j] * (1.0 / 4294967296.0));
        out_w_lo[first + j] += int64_t(w_lo[j]);
      }
    }
  }
};

// fl64(hi 2^32 + lo). Limbs of 53 bits make it one rounding of two exact terms.
inline double limbs_to_double(int64_t hi, int64_t lo) {
  constexpr uint64_t kExact = uint64_t(1) << 53;
  if (uint64_t(hi) + kExact <= 2 * kExact && uint64_t(lo) + kExact <= 2 * kExact)
    return double(hi) * 4294967296.0 + double(lo);
  return double(__int128(hi) * (int64_t(1) << 32) + lo);
}

// The first i from `first` where labels differ, or `last`.
inline int64_t next_change(const int32_t* labels, const int32_t* previous, int64_t first, int64_t last) {
  constexpr int64_t kStep = 4 * kLanes<int32_t>;
  int64_t i = first;
  for (; i + kStep <= last; i += kStep) {
    Vec<int64_t> differ = Vec<int64_t>{};
    for (int64_t v = 0; v < kStep; v += kLanes<int32_t>) {
      Vec<int64_t> a, b;
      __builtin_memcpy(&a, labels + i + v, sizeof a);
      __builtin_memcpy(&b, previous + i + v, sizeof b);
      differ |= a ^ b;
    }
    if (any_bit(differ)) break;
  }
  while (i < last && labels[i] == previous[i]) ++i;
  return i;
}

template <class X>
int64_t accumulate(const X* x, const double* w, int64_t n, int64_t d, int64_t k, const int32_t* labels,
                   const int32_t* previous, const double* scales, double w_scale, int64_t* hi, int64_t* lo,
                   int64_t* counts, int64_t* w_hi, int64_t* w_lo, int threads) {
  int64_t moved = 0;
  // Sums of all clusters for every thread where they are small; else each thread owns a range of clusters and
  // looks at all labels, which needs no second copy and no merging.
  const bool own_rows = k * d * 16 * threads <= (int64_t(64) << 20);
  Buffer<LimbSums<X>*> all(threads);
#pragma omp parallel num_threads(threads) reduction(+ : moved)
  {
    FloatMode mode;
    const int64_t t = thread_number(), team = team_size();
    const int64_t k0 = own_rows ? 0 : k * t / team, k1 = own_rows ? k : k * (t + 1) / team;
    const int64_t r0 = own_rows ? n * t / team : 0, r1 = own_rows ? n * (t + 1) / team : n;
    LimbSums<X> sums(d, k0, k1, w != nullptr);
    for (int64_t i = r0; i < r1; ++i) {
      if (previous && (i = next_change(labels, previous, i, r1)) == r1) break;
      const int64_t to = labels[i];
      const int64_t from = previous ? previous[i] : -1;
      const double weight = w ? w[i] : 1.0;
      const bool arrives = to >= k0 && to < k1, leaves = from >= k0 && from < k1;
      if (arrives) sums.template add<1>(x + i * d, weight, to, scales, w_scale);
      if (leaves) sums.template add<-1>(x + i * d, weight, from, scales, w_scale);
      moved += arrives;
      if (sums.rows >= kFlushRows) {
#pragma omp critical(gpukm_accumulate)
        sums.flush(k0, k1, hi, lo, counts, w_hi, w_lo);
        sums.rows = 0;
      }
    }
    // Each thread adds up a range of clusters, of all threads.
    all[t] = &sums;
#pragma omp barrier
    for (int64_t u = own_rows ? 0 : t; u < (own_rows ? team : t + 1); ++u)
      all[u]->flush(k * t / team, k * (t + 1) / team, hi, lo, counts, w_hi, w_lo);
#pragma omp barrier
  }
  return moved;
}

// sum_f c_f (w c_f - 2 (S_f - w r_f)) with c taken from r, in the lanes and the tree of D.
template <class X>
inline double gained(const X* center, const double* r, const double* s, double w, int64_t d) {
  EightSums sums;
  sums.add(
      d,
      [&](int64_t f) {
        const Vec<double> from = load(r + f), c = widen(center + f) - from;
        return c * (w * c - 2 * (load(s + f) - w * from));
      },
      [&](int64_t f) {
        const double c = double(center[f]) - r[f];
        return c * (w * c - 2 * (s[f] - w * r[f]));
      });
  return sums.total();
}

template <class X>
void means(const int64_t* hi, const int64_t* lo, const double* weights, int64_t k, int64_t d, const double* units,
           const X* previous, const double* r, X* mean, double* shift, double* gain, int threads) {
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Buffer<double> sums(d);
#pragma omp for schedule(static)
    for (int64_t j = 0; j < k; ++j) {
      const double w = weights[j];
      const X* c = previous + j * d;
      for (int64_t f = 0; f < d; ++f) {
        const int64_t at = j * d + f;
        sums[f] = limbs_to_double(hi[at], lo[at]) * units[f];
        mean[at] = w > 0 ? X(sums[f] / w) : c[f];
      }
      gain[j] = gained(c, r, sums.data(), w, d);
      shift[j] = exact_distance(mean + j * d, previous + j * d, d);
    }
  }
}
