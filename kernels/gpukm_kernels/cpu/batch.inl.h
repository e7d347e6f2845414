// Whole fits of many small problems, a thread a problem: what gpukm.functional.kmeans does, step by step and bit by bit.
// What the door of a fit may refuse (values that are not finite, too few rows) is left to it: `solved` stays 0.
//
// Rows stand in lanes: a panel holds kPanelRows rows feature by feature. It is packed once and serves screening in X,
// in difference form, and D itself for several rows at a time, whose additions are those of exact_distance.

// Inlined into one function, the steps of a fit would spill each other's registers.
#define GPUKM_APART __attribute__((noinline))

constexpr int kCenters = 4;  // centroids of a register tile, by two vectors of rows
constexpr int64_t kHead = 1024;  // rows whose median is the reference
constexpr int kDrawBits = 60;
constexpr double kLargest = 1e140;  // beyond it squares could overflow

template <class X>
constexpr int64_t kPanelRows = 2 * kLanes<X>;

// Integers in the order of the floats they are made of.
template <class X>
struct KeyOf;
template <>
struct KeyOf<float> {
  typedef int32_t type;
};
template <>
struct KeyOf<double> {
  typedef int64_t type;
};
template <class X>
using Key = typename KeyOf<X>::type;

template <class X>
constexpr Key<X> kMostKey = sizeof(X) == 4 ? Key<X>(0x7FFFFFFF) : Key<X>(0x7FFFFFFFFFFFFFFF);

template <class X>
inline Key<X> key_of(X v) {
  Key<X> bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits ^ ((bits >> (8 * sizeof(X) - 1)) & kMostKey<X>);
}
template <class X>
inline double value_of(Key<X> key) {
  const Key<X> bits = key < 0 ? key ^ kMostKey<X> : key;
  X v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return double(v);
}

template <class X>
using Keys = typename VecOf<Key<X>, kLanes<X>>::type;
template <class X>
inline Keys<X> load_keys(const Key<X>* p) {
  Keys<X> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// The median of n > 0 numbers given by their keys, padded to whole panels with the largest key, the mean of the middle two where n is even. Counting narrows the range
// of keys without a branch a number: at the value where the rank would lie if numbers were spread evenly, and half way
// after a guess that left more than half of the numbers.
template <class X>
GPUKM_APART double median(const Key<X>* keys, int64_t n) {
  Key<X> low = keys[0], high = keys[0];
  for (int64_t i = 1; i < n; ++i) {
    low = keys[i] < low ? keys[i] : low;
    high = keys[i] > high ? keys[i] : high;
  }
  const int64_t rank = (n - 1) / 2;     // of the lower middle one
  int64_t below = 0, up_to = n;         // keys < low and keys <= high
  bool halve = false;
  while (low < high && up_to != rank + 1) {
    Key<X> mid = (low & high) + ((low ^ high) >> 1);
    if (!halve) {
      const double from = value_of<X>(low), to = value_of<X>(high);
      const double share = (double(rank - below) + 0.5) / double(up_to - below);
      const Key<X> guess = key_of(X(from + (to - from) * share));
      mid = guess < low ? low : guess >= high ? high - 1 : guess;
    }
    // Padding is never among them: mid < high.
    Keys<X> sums[2] = {};
    for (int64_t i = 0; i < n; i += kPanelRows<X>)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sums[v] -= load_keys<X>(keys + i + v * kLanes<X>) <= mid;
    int64_t found = 0;
    for (int l = 0; l < kLanes<X>; ++l) found += int64_t(sums[0][l]) + int64_t(sums[1][l]);
    const int64_t left = up_to - below;
    if (found <= rank) {
      low = mid + 1;
      below = found;
    } else {
      high = mid;
      up_to = found;
    }
    halve = !halve && 2 * (up_to - below) > left;
  }
  // The largest key up to `high` has the rank, the smallest beyond it comes next.
  Key<X> lower = low, upper = kMostKey<X>;
  for (int64_t i = 0; i < n; ++i) {
    // Selected by masks: GCC would branch.
    const Key<X> up_to_high = -Key<X>(keys[i] <= high);
    const Key<X> within = (keys[i] & up_to_high) | (low & ~up_to_high);
    const Key<X> beyond = (keys[i] & ~up_to_high) | (kMostKey<X> & up_to_high);
    lower = within > lower ? within : lower;
    upper = beyond < upper ? beyond : upper;
  }
  if (n % 2 || up_to > rank + 1) return value_of<X>(lower);
  return (value_of<X>(lower) + value_of<X>(upper)) / 2;
}

// Philox-4x64-10 (Salmon et al., SC 2011) as NumPy counts it: element i of the stream (seed, purpose).
class Stream {
 public:
  Stream(uint64_t seed, uint64_t purpose) : seed_(seed), purpose_(purpose) {}
  uint64_t operator[](uint64_t i) {
    if (i / 4 + 1 != block_) fill(i / 4 + 1);
    return out_[i % 4];
  }
  // In [0, bound): the high half of the product.
  int64_t below(int64_t bound, uint64_t i) {
    return int64_t((unsigned __int128)((*this)[i]) * (unsigned __int128)(uint64_t(bound)) >> 64);
  }

 private:
  void fill(uint64_t block) {
    uint64_t c[4] = {block, 0, 0, 0}, k0 = seed_, k1 = purpose_;
    for (int round = 0; round < 10; ++round) {
      const unsigned __int128 a = (unsigned __int128)(0xD2E7470EE14C6C93u) * c[0];
      const unsigned __int128 b = (unsigned __int128)(0xCA5A826395121157u) * c[2];
      const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k0, uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k1, uint64_t(a)};
      __builtin_memcpy(c, next, sizeof c);
      k0 += 0x9E3779B97F4A7C15u;
      k1 += 0xBB67AE8584CAA73Bu;
    }
    __builtin_memcpy(out_, c, sizeof c);
    block_ = block;
  }
  uint64_t seed_, purpose_, block_ = 0, out_[4] = {};
};

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
  double top = 0;
  for (int64_t i = 0; i < n; ++i) top = v[i] > top ? v[i] : top;
  const int64_t whole = n / L * L;
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

// D of kLanes<double> rows, whose values of a feature stand side by side and features `stride` apart, to c.
inline Vec<double> exact_lanes(const double* rows, int64_t stride, const double* c, int64_t d) {
  Vec<double> q[8] = {};
  int64_t f = 0;
  for (; f + 8 <= d; f += 8)
#pragma GCC unroll 8
    for (int l = 0; l < 8; ++l) {
      const Vec<double> diff = load(rows + (f + l) * stride) - splat(c[f + l]);
      q[l] += diff * diff;
    }
#pragma GCC unroll 8
  for (int l = 0; l < 7; ++l)
    if (f + l < d) {
      const Vec<double> diff = load(rows + (f + l) * stride) - splat(c[f + l]);
      q[l] += diff * diff;
    }
  return ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]));
}

// exact_distance with its eight lanes in registers: GCC sends vectors wider than the processor's through memory.
template <class X>
inline double exact_row(const X* x, const X* c, int64_t d) {
  constexpr int L = kLanes<double>, V = 8 / L;
  typedef typename VecOf<X, L>::type Stored;
  Vec<double> q[V] = {};
  int64_t f = 0;
  for (; f + 8 <= d; f += 8)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Stored a, b;
      __builtin_memcpy(&a, x + f + v * L, sizeof a);
      __builtin_memcpy(&b, c + f + v * L, sizeof b);
      const Vec<double> diff = __builtin_convertvector(a, Vec<double>) - __builtin_convertvector(b, Vec<double>);
      q[v] += diff * diff;
    }
  double s[8];
  __builtin_memcpy(s, q, sizeof s);
  for (int l = 0; f + l < d; ++l) {
    const double diff = double(x[f + l]) - double(c[f + l]);
    s[l] += diff * diff;
  }
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// Difference scores of a panel against a register tile of points.
template <class X>
inline void score_tile(const X* panel, const X* tile, const X* shut, int64_t d, Vec<X> (&s)[kCenters][2]) {
  // Sums of its own: the caller's array could be the memory that is read.
  Vec<X> acc[kCenters][2];
#pragma GCC unroll 4
  for (int j = 0; j < kCenters; ++j) acc[j][0] = acc[j][1] = splat(shut[j]);
#pragma GCC unroll 2
  for (int64_t f = 0; f < d; ++f) {
    const Vec<X> x0 = load(panel + f * kPanelRows<X>), x1 = load(panel + f * kPanelRows<X> + kLanes<X>);
#pragma GCC unroll 4
    for (int j = 0; j < kCenters; ++j) {
      const Vec<X> v = splat(tile[f * kCenters + j]);
      const Vec<X> a0 = x0 - v, a1 = x1 - v;
      fma_into(acc[j][0], a0, a0);
      fma_into(acc[j][1], a1, a1);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kCenters; ++j) {
    s[j][0] = acc[j][0];
    s[j][1] = acc[j][1];
  }
}

// Points into register tiles; what fills up the last one is infinitely far.
template <class X>
inline void pack_tiles(const X* points, int64_t n, int64_t d, X* tiles, X* shut) {
  for (int64_t j = 0; j < (n + kCenters - 1) / kCenters * kCenters; ++j) {
    X* to = tiles + j / kCenters * kCenters * d + j % kCenters;
    shut[j] = j < n ? X(0) : X(__builtin_inf());
    for (int64_t f = 0; f < d; ++f) to[f * kCenters] = j < n ? points[j * d + f] : X(0);
  }
}

// Sums of all clusters as float64 in the two parts of exact.inl.h. They are not moved to integers: a problem's total
// stays within 2^82, and few enough rows keep the low parts exact, so hi + lo rounds the integer once.
template <class X>
struct SmallSums {
  const int64_t d, k;
  const bool weighted;
  Buffer<double> hi, lo, w_hi, w_lo;
  Buffer<int64_t> counts;

  SmallSums(int64_t d_, int64_t k_, bool weighted_)
      : d(d_), k(k_), weighted(weighted_), hi(k_ * d_), lo(k_ * d_), w_hi(k_), w_lo(k_), counts(k_) {}
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
  template <int Sign>
  void add(const X* x, double w, int64_t cluster, const double* scales, double w_scale) {
    typedef typename VecOf<X, kLanes<double>>::type Stored;
    double *h = hi.data() + cluster * d, *l = lo.data() + cluster * d;
    const Vec<double> round_high = splat(kRoundHigh), round_low = splat(kRoundLow), weight = splat(w);
    int64_t f = 0;
    for (; f + kLanes<double> <= d; f += kLanes<double>) {
      Stored stored;
      __builtin_memcpy(&stored, x + f, sizeof stored);
      // A weight of one changes no bit.
      const Vec<double> t = weight * __builtin_convertvector(stored, Vec<double>) * load(scales + f);
      const Vec<double> high = (t + round_high) - round_high, low = ((t - high) + round_low) - round_low;
      store(h + f, Sign > 0 ? load(h + f) + high : load(h + f) - high);
      store(l + f, Sign > 0 ? load(l + f) + low : load(l + f) - low);
    }
    for (; f < d; ++f) {
      double high, low;
      LimbSums<X>::term(w * double(x[f]) * scales[f], &high, &low);
      h[f] += Sign * high;
      l[f] += Sign * low;
    }
    counts[cluster] += Sign;
    if (weighted) {
      double high, low;
      LimbSums<X>::term(w * w_scale, &high, &low);
      w_hi[cluster] += Sign * high;
      w_lo[cluster] += Sign * low;
    }
  }
};

// Writes as many features of a whole panel as fill vectors; the scalar loop does the rest.
inline int64_t transpose(const double*, int64_t, double*) { return 0; }
inline int64_t transpose(const float* rows, int64_t d, float* panel) {
  int64_t f = 0;
#if defined(GPUKM_TRANSPOSE)
  constexpr int64_t P = kPanelRows<float>;
  for (; f + 8 <= d; f += 8)
    for (int64_t r = 0; r < P; r += 8) {
      __m256 a[8];
      for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows + (r + i) * d + f);
      transpose8(a, panel + f * P + r, P);
    }
#else
  (void)rows, (void)d, (void)panel;
#endif
  return f;
}

template <class X>
class Solver {
 public:
  Solver(const Batch<X>& b, int64_t most_rows)
      : b_(b), d_(b.d), k_(b.k), blocks_((b.k + kCenters - 1) / kCenters), most_(padded(most_rows)),
        panels_(most_ * d_), wide_(kPanelRows<X> * d_), weight_(most_), nearest_(most_),
        distance_(most_), near_(most_), narrow_weight_(most_),
        scores_(most_ * b.trials), prefix_(most_), taken_(most_), labels_(most_), keys_(kHead),
        reference_(d_), minimum_(d_), maximum_(d_), scales_(d_), unscales_(d_), centers_(k_ * d_), next_(k_ * d_),
        packed_(blocks_ * kCenters * d_), shut_(blocks_ * kCenters), points_(b.trials * d_),
        tiles_((b.trials + kCenters - 1) / kCenters * kCenters * d_),
        tiles_shut_((b.trials + kCenters - 1) / kCenters * kCenters), point_(d_), potentials_(b.trials), sums_(k_ * d_), tree_(power_of_two(k_ * d_)), other_tree_(power_of_two(k_ * d_)),
        weights_(k_), chosen_(b.trials), history_(b.capacity * 4), stats_(d_, k_, b.w != nullptr),
        filled_(d_, k_, b.w != nullptr) {}

  // Solves one problem; false where the loop was told to stop.
  template <class GoOn>
  bool solve(int64_t problem, GoOn go_on) {
    const int64_t first = b_.offsets[problem];
    n_ = b_.offsets[problem + 1] - first;
    x_ = b_.x + first * d_;
    w_ = b_.w ? b_.w + first : nullptr;
    if (n_ < k_ || !scan()) return true;
    for (int64_t f = 0; f < d_; ++f) b_.constant[problem * d_ + f] = minimum_[f] == maximum_[f];
    b_.total_weight[problem] = total_weight_;
    double best = 0;
    for (int64_t start = 0; start < b_.n_init; ++start) {
      const uint64_t seed = start ? Stream(b_.seeds[problem], kRestart)[uint64_t(start)] : b_.seeds[problem];
      seed_centers(problem, seed);
      if (!iterate(go_on)) return false;
      double inertia;
      if (!total(&inertia)) return true;
      if (start == 0 || inertia < best) {
        best = inertia;
        keep(problem, first, start, inertia);
      }
    }
    b_.solved[problem] = 1;
    return true;
  }

 private:
  enum Purpose : uint64_t { kRandomRows = 1, kPlusPlus = 2, kRestart = 6 };  // of gpukm.core.rng

  static int64_t padded(int64_t n) { return (n + kPanelRows<X> - 1) / kPanelRows<X> * kPanelRows<X>; }
  int64_t rows_padded() const { return padded(n_); }

  // Looks at every row once and settles the grid, the reference and the tolerance's spread; false for what is left to
  // the door of a fit.
  GPUKM_APART bool scan() {
    Key<X> bad = 0;
    for (int64_t i = 0; i < n_ * d_; ++i) {
      // All ones in the exponent are NaN or infinity.
      Key<X> bits;
      __builtin_memcpy(&bits, x_ + i, sizeof bits);
      constexpr Key<X> exponent = sizeof(X) == 4 ? Key<X>(0x7F800000) : Key<X>(0x7FF0000000000000);
      bad |= (bits & exponent) == exponent;
    }
    if (bad) return false;
    X *low = minimum_.data(), *high = maximum_.data();
    for (int64_t f = 0; f < d_; ++f) {
      low[f] = X(__builtin_inf());
      high[f] = -X(__builtin_inf());
    }
    n_positive_ = 0;
    LongSum weight;
    for (int64_t i = 0; i < n_; ++i) {
      if (w_) {
        weight.add(w_[i]);
        if (!(w_[i] > 0)) {
          for (int64_t f = 0; f < d_; ++f)
            if (!(__builtin_fabs(double(x_[i * d_ + f])) <= kLargest)) return false;
          continue;
        }
      }
      ++n_positive_;
      const X* row = x_ + i * d_;
      for (int64_t f = 0; f < d_; ++f) {
        low[f] = row[f] < low[f] ? row[f] : low[f];
        high[f] = row[f] > high[f] ? row[f] : high[f];
      }
    }
    weight.carry();
    total_weight_ = w_ ? rounded(weight) : double(n_);
    if (!n_positive_ || !weight.finite || !(total_weight_ < 1e300)) return false;
    double width = 0;
    for (int64_t f = 0; f < d_; ++f) {
      const double l = double(low[f]), h = double(high[f]), a = __builtin_fabs(l), b = __builtin_fabs(h);
      const double most = a > b ? a : b;
      if (most > kLargest) return false;
      const int e = most > 0 ? grid(most * total_weight_) : 0;
      scales_[f] = __builtin_ldexp(1.0, e);
      unscales_[f] = __builtin_ldexp(1.0, -e);
      tree_[f] = (h - l) * (h - l);
    }
    width = fold(tree_.data(), d_);
    first_exponent_ = 1000;
    const double largest = width * total_weight_;
    if (largest > 0) {
      const int e = kDrawBits - exponent_of(largest) - 1;
      first_exponent_ = e < 1000 ? e : 1000;
    }
    const int e = grid(total_weight_);
    weight_scale_ = __builtin_ldexp(1.0, e);
    weight_unscale_ = __builtin_ldexp(1.0, -e);
    pack();
    return spread();
  }

  static int exponent_of(double v) {
    int e;
    (void)__builtin_frexp(v, &e);
    return e;
  }
  static int grid(double most) {
    const int e = 82 - exponent_of(most);
    return e > 1000 ? 1000 : e < -1000 ? -1000 : e;
  }

  // Rows into panels; what fills up the last one repeats its first row and weighs nothing.
  GPUKM_APART void pack() {
    constexpr int64_t P = kPanelRows<X>;
    for (int64_t i = 0; i < rows_padded(); i += P) {
      X* panel = panels_.data() + i * d_;
      const int64_t done = i + P <= n_ ? transpose(x_ + i * d_, d_, panel) : 0;
      for (int64_t r = 0; r < P; ++r) {
        const X* row = x_ + (i + r < n_ ? i + r : i) * d_;
        for (int64_t f = done; f < d_; ++f) panel[f * P + r] = row[f];
        const double w = i + r < n_ ? (w_ ? w_[i + r] : 1.0) : 0.0;
        weight_[i + r] = w;
        // In a type of less range a weight may become zero or infinite; infinity is no potential that decides.
        narrow_weight_[i + r] = w == 0 || (w > 1e-15 && w < 1e15) ? X(w) : X(__builtin_inf());
      }
    }
  }

  // The panel of row i as float64.
  const double* widened(int64_t i) {
    const X* panel = panels_.data() + i * d_;
    if (sizeof(X) == sizeof(double)) return reinterpret_cast<const double*>(panel);
    double* wide = wide_.data();
    for (int64_t v = 0; v < kPanelRows<X> * d_; ++v) wide[v] = double(panel[v]);
    return wide;
  }

  // The reference, the median of the first rows, and the exact sum of w D(x, reference).
  GPUKM_APART bool spread() {
    constexpr int64_t P = kPanelRows<X>;
    const int64_t head = n_ < kHead ? n_ : kHead;
    for (int64_t f = 0; f < d_; ++f) {
      for (int64_t i = 0; i < head; i += P)
        for (int64_t r = 0; r < P; ++r) keys_[i + r] = key_of(panels_[i * d_ + f * P + r]);
      for (int64_t i = head; i < padded(head); ++i) keys_[i] = kMostKey<X>;
      reference_[f] = double(X(median<X>(keys_.data(), head)));
    }
    distances_to(reference_.data(), distance_.data());
    for (int64_t i = 0; i < n_; ++i) distance_[i] *= weight_[i];
    spread_ = exact_total(distance_.data(), n_);
    return spread_ == spread_;
  }

  // out[i] = D(x_i, point) for all rows.
  GPUKM_APART void distances_to(const double* point, double* out) {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    for (int64_t i = 0; i < rows_padded(); i += P) {
      const double* rows = widened(i);
      for (int64_t r = 0; r < P; r += L) store(out + i + r, exact_lanes(rows + r, P, point, d_));
    }
  }

  void take_row(int64_t row, int64_t center) {
    __builtin_memcpy(centers_.data() + center * d_, x_ + row * d_, size_t(d_) * sizeof(X));
  }
  void repeat_first(int64_t from) {
    for (int64_t j = from; j < k_; ++j)
      __builtin_memcpy(centers_.data() + j * d_, centers_.data(), size_t(d_) * sizeof(X));
  }

  void seed_centers(int64_t problem, uint64_t seed) {
    if (b_.start) {
      __builtin_memcpy(centers_.data(), b_.start + problem * k_ * d_, size_t(k_ * d_) * sizeof(X));
    } else if (n_positive_ < k_) {
      random_rows(n_positive_, seed);
      repeat_first(n_positive_);
    } else if (b_.trials == 0) {
      random_rows(k_, seed);
    } else {
      plus_plus(seed);
    }
  }

  // The first row whose prefix sum exceeds the target.
  int64_t locate(int64_t target) const {
    int64_t low = 0, high = n_ - 1;
    while (low < high) {
      const int64_t mid = (low + high) / 2;
      if (prefix_[mid] > target)
        high = mid;
      else
        low = mid + 1;
    }
    return low;
  }

  // gpukm.core.seeding.random_rows: `count` different rows in proportion to their weights.
  GPUKM_APART void random_rows(int64_t count, uint64_t seed) {
    Stream draws(seed, kRandomRows);
    const int exponent = kDrawBits - exponent_of(total_weight_);
    __builtin_memset(taken_.data(), 0, size_t(n_));
    int64_t found = 0;
    uint64_t draw = 0;
    while (found < count) {
      int64_t sum = 0;
      for (int64_t i = 0; i < n_; ++i) {
        int64_t q = 1;
        if (w_) {
          q = __builtin_llrint(__builtin_ldexp(w_[i], exponent));
          q = w_[i] > 0 && q < 1 ? 1 : q;
        }
        sum += taken_[i] ? 0 : q;
        prefix_[i] = sum;
      }
      const int64_t wanted = count - found;
      for (int64_t t = 0; t < wanted; ++t) {
        const int64_t row = locate(draws.below(sum, draw + uint64_t(t)));
        if (taken_[row]) continue;
        taken_[row] = 1;
        take_row(row, found++);
      }
      draw += uint64_t(wanted);
    }
  }

  // gpukm.core.seeding.kmeans_plus_plus.
  void plus_plus(uint64_t seed) {
    Stream draws(seed, kPlusPlus);
    random_rows(1, seed);
    for (int64_t i = 0; i < rows_padded(); ++i) nearest_[i] = __builtin_inf();
    lower(centers_.data());
    int exponent = first_exponent_;
    uint64_t draw = 0;
    for (int64_t made = 1; made < k_; ++made) {
      const int64_t sum = quantise(&exponent);
      if (sum == 0) return repeat_first(made);
      int64_t n = 0;
      for (int64_t t = 0; t < b_.trials; ++t) {
        const int64_t row = locate(draws.below(sum, draw++));
        bool again = false;
        for (int64_t other = 0; other < n; ++other) again |= chosen_[other] == row;
        if (again) continue;
        chosen_[n] = row;
        __builtin_memcpy(points_.data() + n++ * d_, x_ + row * d_, size_t(d_) * sizeof(X));
      }
      int64_t best = n > 1 ? screen_potentials(n, exponent) : 0;
      if (best < 0) {
        int64_t least = 0;
        for (int64_t t = 0; t < n; ++t) {
          const int64_t v = potential(points_.data() + t * d_, exponent);
          if (t == 0 || v < least) {
            least = v;
            best = t;
          }
        }
      }
      take_row(chosen_[best], made);
      if (made + 1 == k_) return;
      if (n > 1)
        lower_screened(centers_.data() + made * d_, scores_.data() + best * most_);
      else
        lower(centers_.data() + made * d_);
    }
  }

  // How far a score is from D: s * less - tiny <= D <= s * more + tiny, see kernels/README.md.
  struct Margins {
    Vec<X> less, more, tiny;
  };
  Margins margins() const {
    const double exact = double(d_ / 8 + 8) * 0x1p-53;
    const double by_score = kBoundFactor * double(d_ + 8) * Limits<X>::unit * (1 + 0x1p-6) + 2 * exact;
    return {splat(X(1 - by_score)), splat(X(1 + by_score)), splat(X(double(d_ + 8) * Limits<X>::tiny))};
  }

  // Takes a new centre into account.
  GPUKM_APART void lower(const X* center) {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    for (int64_t f = 0; f < d_; ++f) point_[f] = double(center[f]);
    for (int64_t i = 0; i < rows_padded(); i += P) {
      const double* rows = widened(i);
      for (int64_t r = 0; r < P; r += L) {
        const Vec<double> v = vmin(exact_lanes(rows + r, P, point_.data(), d_), load(nearest_.data() + i + r));
        store(nearest_.data() + i + r, v);
      }
      for (int64_t r = 0; r < P; ++r) near_[i + r] = X(nearest_[i + r]);
    }
  }

  // The same by the scores of the centre: D is evaluated for rows that may come nearer.
  GPUKM_APART void lower_screened(const X* center, const X* scores) {
    constexpr int64_t P = kPanelRows<X>;
    const Margins m = margins();
    // nearest <= near_ (1 + 2u) + the smallest number
    const Vec<X> up = splat(X(1 + 4 * Limits<X>::unit));
    for (int64_t i = 0; i < n_; i += P) {
      uint64_t open = 0;
      for (int v = 0; v < 2; ++v) {
        const int64_t at = i + v * kLanes<X>;
        open |= uint64_t(not_greater(load(scores + at) * m.less - m.tiny, load(near_.data() + at) * up + m.tiny))
                << (v * kLanes<X>);
      }
      if (n_ - i < P) open &= (uint64_t(1) << (n_ - i)) - 1;
      for (; open; open &= open - 1) {
        const int64_t row = i + __builtin_ctzll(open);
        const double v = exact_row(x_ + row * d_, center, d_);
        if (v < nearest_[row]) {
          nearest_[row] = v;
          near_[row] = X(v);
        }
      }
    }
  }

  // The one of n candidates that leaves the lowest potential, by sums in X; -1 where their errors leave it open.
  GPUKM_APART int64_t screen_potentials(int64_t n, int exponent) {
    constexpr int64_t P = kPanelRows<X>;
    pack_tiles(points_.data(), n, d_, tiles_.data(), tiles_shut_.data());
    for (int64_t block = 0; block * kCenters < n; ++block) {
      Vec<X> sum[kCenters][2] = {};
      for (int64_t i = 0; i < rows_padded(); i += P) {
        Vec<X> s[kCenters][2];
        score_tile(panels_.data() + i * d_, tiles_.data() + block * kCenters * d_, tiles_shut_.data() + block * kCenters,
                   d_, s);
#pragma GCC unroll 4
        for (int j = 0; j < kCenters; ++j)
          if (block * kCenters + j < n) {
            store(scores_.data() + (block * kCenters + j) * most_ + i, s[j][0]);
            store(scores_.data() + (block * kCenters + j) * most_ + i + kLanes<X>, s[j][1]);
          }
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          const Vec<X> near = load(near_.data() + i + v * kLanes<X>);
          const Vec<X> weight = load(narrow_weight_.data() + i + v * kLanes<X>);
#pragma GCC unroll 4
          for (int j = 0; j < kCenters; ++j) sum[j][v] += weight * vmin(near, s[j][v]);
        }
      }
      for (int64_t j = 0; j < kCenters && block * kCenters + j < n; ++j) {
        double v = 0;
        for (int l = 0; l < kLanes<X>; ++l) v += double(sum[j][0][l]) + double(sum[j][1][l]);
        potentials_[block * kCenters + j] = v;
      }
    }
    int64_t best = 0;
    for (int64_t t = 1; t < n; ++t) best = potentials_[t] < potentials_[best] ? t : best;
    // Relative: the scores, the rounding of weight and nearest distance, their product, a chain of sums, D itself.
    // Absolute: underflow, and the rounding of each term to an integer.
    const double exact = double(d_ / 8 + 8) * 0x1p-53;
    const double share =
        kBoundFactor * double(d_ + rows_padded() / P + 24) * Limits<X>::unit * (1 + 0x1p-6) + 2 * exact;
    const double slack = 4 * (total_weight_ * double(d_ + 8) + double(n_)) * Limits<X>::tiny +
                         double(n_) * __builtin_ldexp(1.0, -exponent);
    for (int64_t t = 0; t < n; ++t)
      if (t != best && !(potentials_[best] * (1 + share) + slack < potentials_[t] * (1 - share) - slack)) return -1;
    return best;
  }

  // Sum of rint(w * min(nearest, D) * 2^exponent), in two parts that stay exact in float64.
  GPUKM_APART int64_t potential(const X* point, int exponent) {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    for (int64_t f = 0; f < d_; ++f) point_[f] = double(point[f]);
    const Vec<double> high_round = splat(kRoundHigh), low_round = splat(kRoundLow);
    const Vec<double> grid = splat(__builtin_ldexp(1.0, exponent));
    Vec<double> high_sum = {}, low_sum = {};
    for (int64_t i = 0; i < rows_padded(); i += P) {
      const double* rows = widened(i);
      for (int64_t r = 0; r < P; r += L) {
        const Vec<double> v = vmin(exact_lanes(rows + r, P, point_.data(), d_), load(nearest_.data() + i + r));
        const Vec<double> q = load(weight_.data() + i + r) * v * grid;
        const Vec<double> high = (q + high_round) - high_round;
        high_sum += high;
        low_sum += ((q - high) + low_round) - low_round;
      }
    }
    int64_t sum = 0;
    for (int l = 0; l < L; ++l) sum += int64_t(high_sum[l]) + int64_t(low_sum[l]);
    return sum;
  }

  // Prefix sums of rint(w * nearest * 2^exponent), on a grid that uses most of 60 bits for the total.
  GPUKM_APART int64_t quantise(int* exponent) {
    for (;;) {
      const double scale = __builtin_ldexp(1.0, *exponent);
      int64_t sum = 0;
      for (int64_t i = 0; i < n_; ++i) {
        sum += __builtin_llrint(weight_[i] * nearest_[i] * scale);
        prefix_[i] = sum;
      }
      const int spare = kDrawBits - (sum ? 64 - __builtin_clzll(uint64_t(sum)) : 0);
      if (spare < 8 || *exponent + spare > 1000) return sum;
      *exponent += spare - 1;
    }
  }

  // gpukm.core.lloyd.iterate; `centers_` ends as the final centroids and `labels_` as theirs.
  template <class GoOn>
  bool iterate(GoOn go_on) {
    stats_.clear();
    double tolerance = 0;
    rechecked_ = 0;
    for (iterations_ = 1;; ++iterations_) {
      if (!go_on()) return false;
      const int64_t moved = assign(iterations_ == 1);
      weigh(stats_);
      const double inertia = display_inertia();
      if (iterations_ == 1) tolerance = b_.tol * mean_variance();
      const int64_t n_empty = fill_empty();
      double shift = 0;
      const bool same = update(&shift);
      record(inertia, shift, moved, n_empty);
      stop_ = -1;
      if (same)
        stop_ = 0;
      else if (shift <= tolerance && b_.tol > 0)
        stop_ = 1;
      else if (iterations_ == b_.max_iter)
        stop_ = 2;
      if (stop_ < 0) continue;
      // Labels belong to the centroids before this update, and are those of the new ones only where none changed.
      if (!same) assign(false);
      weigh(stats_);
      return true;
    }
  }

  void record(double inertia, double shift, int64_t moved, int64_t n_empty) {
    if (iterations_ > b_.capacity) return;
    double* to = history_.data() + (iterations_ - 1) * 4;
    to[0] = inertia;
    to[1] = shift;
    to[2] = double(moved);
    to[3] = double(n_empty);
  }

  // Exact labels; rows that moved leave one sum and join another. Returns how many did.
  GPUKM_APART int64_t assign(bool first) {
    constexpr int64_t P = kPanelRows<X>;
    pack_tiles(centers_.data(), k_, d_, packed_.data(), shut_.data());
    typedef typename VecOf<int32_t, kLanes<X>>::type Ints;
    const Margins m = margins();
    const Vec<X> inf = splat(X(__builtin_inf()));
    const Vec<X> one = splat(X(1));
    int64_t moved = 0;
    alignas(64) int32_t found[P];
    for (int64_t i = 0; i < n_; i += P) {
      const X* panel = panels_.data() + i * d_;
      Vec<X> m1[2] = {inf, inf}, m2[2] = {inf, inf}, at[2] = {Vec<X>{}, Vec<X>{}}, here = Vec<X>{};
      for (int64_t block = 0; block < blocks_; ++block) {
        Vec<X> s[kCenters][2];
        score_tile(panel, packed_.data() + block * kCenters * d_, shut_.data() + block * kCenters, d_, s);
#pragma GCC unroll 4
        for (int j = 0; j < kCenters; ++j) {
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) {
            at[v] = less_select(s[j][v], m1[v], here, at[v]);
            m2[v] = vmin(m2[v], vmax(m1[v], s[j][v]));
            m1[v] = vmin(m1[v], s[j][v]);
          }
          here += one;
        }
      }
      uint64_t unsettled = 0;
      for (int v = 0; v < 2; ++v) {
        const Ints labels = __builtin_convertvector(at[v], Ints);
        __builtin_memcpy(found + v * kLanes<X>, &labels, sizeof labels);
        unsettled |= uint64_t(not_greater(m2[v] * m.less - m.tiny, m1[v] * m.more + m.tiny)) << (v * kLanes<X>);
      }
      const int64_t count = n_ - i < P ? n_ - i : P;
      if (count < P) unsettled &= (uint64_t(1) << count) - 1;
      if (unsettled && k_ > 1) decide(i, unsettled, found);
      moved += move(i, count, found, first);
    }
    return moved;
  }

  // D against every centroid, for the rows of a panel that screening left open.
  void decide(int64_t i, uint64_t rows, int32_t* found) {
    for (; rows; rows &= rows - 1) {
      const int r = __builtin_ctzll(rows);
      double best = __builtin_inf();
      for (int64_t j = 0; j < k_; ++j) {
        const double v = exact_row(x_ + (i + r) * d_, centers_.data() + j * d_, d_);
        if (v < best) {
          best = v;
          found[r] = int32_t(j);
        }
      }
      ++rechecked_;
    }
  }

  int64_t move(int64_t i, int64_t count, const int32_t* found, bool first) {
    int32_t* labels = labels_.data() + i;
    int64_t moved = 0;
    if (!first) {
      int32_t changed = 0;
      for (int64_t r = 0; r < count; ++r) changed |= labels[r] ^ found[r];
      if (!changed) return 0;
    }
    for (int64_t r = 0; r < count; ++r) {
      if (!first && labels[r] == found[r]) continue;
      const X* row = x_ + (i + r) * d_;
      const double w = w_ ? w_[i + r] : 1.0;
      stats_.template add<1>(row, w, found[r], scales_.data(), weight_scale_);
      if (!first) stats_.template add<-1>(row, w, labels[r], scales_.data(), weight_scale_);
      labels[r] = found[r];
      ++moved;
    }
    return moved;
  }

  // Sums and weights of the clusters, each rounded once: both parts are exact, so one addition rounds their sum.
  GPUKM_APART void weigh(const SmallSums<X>& stats) {
    for (int64_t j = 0; j < k_; ++j) {
      weights_[j] = w_ ? (stats.w_hi[j] + stats.w_lo[j]) * weight_unscale_ : double(stats.counts[j]);
      for (int64_t f = 0; f < d_; ++f)
        sums_[j * d_ + f] = (stats.hi[j * d_ + f] + stats.lo[j * d_ + f]) * unscales_[f];
    }
  }

  // gpukm.core.lloyd.iterate: the exact spread and what the clusters gained on it.
  GPUKM_APART double display_inertia() {
    for (int64_t j = 0; j < k_; ++j) {
      double lane[8] = {};
      const double w = weights_[j];
      for (int64_t f = 0; f < d_; ++f) {
        const double c = double(centers_[j * d_ + f]) - reference_[f];
        lane[f % 8] += c * (w * c - 2 * (sums_[j * d_ + f] - w * reference_[f]));
      }
      tree_[j] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
    const double v = spread_ + fold(tree_.data(), k_);
    return v < 0 ? 0 : v;
  }

  double mean_variance() {
    for (int64_t f = 0; f < d_; ++f) {
      double high = 0, low = 0;
      for (int64_t j = 0; j < k_; ++j) {
        high += stats_.hi[j * d_ + f];
        low += stats_.lo[j * d_ + f];
      }
      tree_[f] = (high + low) * unscales_[f] / total_weight_;
    }
    const double offset = exact_row(tree_.data(), reference_.data(), d_);
    const double v = spread_ / total_weight_ - offset;
    return (v < 0 ? 0 : v) / double(d_);
  }

  // gpukm.core.lloyd._fill_empty: empty clusters take the rows farthest from their centroids. The sums of the labels
  // stay as they are; those with rows moved replace `sums_` and `weights_`.
  GPUKM_APART int64_t fill_empty() {
    int64_t n_empty = 0;
    for (int64_t j = 0; j < k_; ++j) n_empty += empty(j);
    if (!n_empty) return 0;
    filled_.copy(stats_);
    for (int64_t i = 0; i < n_; ++i) {
      const double v = exact_row(x_ + i * d_, centers_.data() + int64_t(labels_[i]) * d_, d_);
      nearest_[i] = weight_[i] > 0 ? v : -1.0;
    }
    for (int64_t j = 0; j < k_; ++j) {
      if (!empty(j)) continue;
      int64_t row = -1;
      double most = 0;
      for (int64_t i = 0; i < n_; ++i)
        if (nearest_[i] > most) {
          most = nearest_[i];
          row = i;
        }
      if (row < 0) break;
      nearest_[row] = -1;
      const double w = w_ ? w_[row] : 1.0;
      filled_.template add<-1>(x_ + row * d_, w, labels_[row], scales_.data(), weight_scale_);
      filled_.template add<1>(x_ + row * d_, w, j, scales_.data(), weight_scale_);
    }
    weigh(filled_);
    return n_empty;
  }
  bool empty(int64_t j) const {
    if (weights_[j] <= 0) return true;
    if (!b_.spherical) return false;
    for (int64_t f = 0; f < d_; ++f)
      if (sums_[j * d_ + f] != 0) return false;
    return true;
  }

  // New centroids, rounded once; true where every bit stayed. `shift` is their summed squared movement.
  GPUKM_APART bool update(double* shift) {
    for (int64_t j = 0; j < k_; ++j) {
      double divisor = weights_[j];
      bool used = divisor > 0;
      if (b_.spherical) {
        for (int64_t f = 0; f < d_; ++f) other_tree_[f] = 0;
        divisor = __builtin_sqrt(exact_row(sums_.data() + j * d_, other_tree_.data(), d_));
        used = used && divisor > 0;
      }
      X* to = next_.data() + j * d_;
      const X* from = centers_.data() + j * d_;
      for (int64_t f = 0; f < d_; ++f) to[f] = used ? X(sums_[j * d_ + f] / divisor) : from[f];
      tree_[j] = exact_row(to, from, d_);
    }
    *shift = fold(tree_.data(), k_);
    const size_t bytes = size_t(k_ * d_) * sizeof(X);
    const bool same = __builtin_memcmp(next_.data(), centers_.data(), bytes) == 0;
    __builtin_memcpy(centers_.data(), next_.data(), bytes);
    return same;
  }

  // The exact inertia; false where it is not finite.
  GPUKM_APART bool total(double* inertia) {
    for (int64_t i = 0; i < n_; ++i)
      distance_[i] = weight_[i] * exact_row(x_ + i * d_, centers_.data() + int64_t(labels_[i]) * d_, d_);
    *inertia = exact_total(distance_.data(), n_);
    return *inertia == *inertia;
  }

  void keep(int64_t problem, int64_t first, int64_t start, double inertia) {
    __builtin_memcpy(b_.centroids + problem * k_ * d_, centers_.data(), size_t(k_ * d_) * sizeof(X));
    __builtin_memcpy(b_.labels + first, labels_.data(), size_t(n_) * sizeof(int32_t));
    for (int64_t j = 0; j < k_; ++j) {
      b_.counts[problem * k_ + j] = stats_.counts[j];
      b_.weights[problem * k_ + j] = weights_[j];
    }
    b_.inertia[problem] = inertia;
    b_.n_iter[problem] = iterations_;
    b_.best_init[problem] = start;
    b_.stop[problem] = stop_;
    b_.rechecked[problem] = rechecked_;
    const int64_t kept = iterations_ < b_.capacity ? iterations_ : b_.capacity;
    __builtin_memcpy(b_.history + problem * b_.capacity * 4, history_.data(), size_t(kept) * 4 * sizeof(double));
  }

  const Batch<X>& b_;
  const int64_t d_, k_, blocks_, most_;
  // Of the problem at hand.
  int64_t n_ = 0, n_positive_ = 0;
  const X* x_ = nullptr;
  const double* w_ = nullptr;
  double total_weight_ = 0, spread_ = 0, weight_scale_ = 1, weight_unscale_ = 1;
  int first_exponent_ = 0;
  // Of the start at hand.
  int64_t iterations_ = 0, rechecked_ = 0;
  int32_t stop_ = 0;

  Buffer<X> panels_;
  Buffer<double> wide_, weight_, nearest_, distance_;
  Buffer<X> near_, narrow_weight_;  // nearest_ and weight_, rounded
  Buffer<X> scores_;                // of each candidate
  Buffer<int64_t> prefix_;
  Buffer<uint8_t> taken_;
  Buffer<int32_t> labels_;
  Buffer<Key<X>> keys_;
  Buffer<double> reference_;
  Buffer<X> minimum_, maximum_;
  Buffer<double> scales_, unscales_;
  Buffer<X> centers_, next_, packed_, shut_;
  Buffer<X> points_, tiles_, tiles_shut_;  // candidates of a step of k-means++
  Buffer<double> point_, potentials_, sums_, tree_, other_tree_, weights_;
  Buffer<int64_t> chosen_;
  Buffer<double> history_;
  SmallSums<X> stats_, filled_;  // of the labels, and with empty clusters filled
};

template <class X>
bool batch(const Batch<X>& batch, int threads) {
  int64_t most = 0;
  for (int64_t i = 0; i < batch.n_problems; ++i) {
    const int64_t n = batch.offsets[batch.order[i] + 1] - batch.offsets[batch.order[i]];
    most = n > most ? n : most;
  }
  int stopped = 0;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Solver<X> solver(batch, most);
    const bool asks = thread_number() == 0;
    auto go_on = [&] {
      if (asks && batch.interrupted()) __atomic_store_n(&stopped, 1, __ATOMIC_RELAXED);
      return !__atomic_load_n(&stopped, __ATOMIC_RELAXED);
    };
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch.n_problems; ++i)
      if (go_on()) solver.solve(batch.order[i], go_on);
  }
  return !stopped;
}
