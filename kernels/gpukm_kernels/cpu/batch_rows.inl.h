// The rows of a small problem: packed into panels, looked at once, and what a fit wants to know of them.

constexpr int64_t kHead = 1024;  // rows whose median is the reference
constexpr int kDrawBits = 60;    // of a total that draws are made from
constexpr double kLargest = 1e140;  // beyond it squares could overflow

// Rows stand in lanes: a panel holds kPanelRows rows feature by feature, in kPanelVectors vectors.
constexpr int kPanelVectors = kBlock >= 8 ? 4 : 2;
template <class X>
constexpr int64_t kPanelRows = kPanelVectors * kLanes<X>;
// What integers take at a time; a multiple of any panel.
constexpr int64_t kMostPanelRows = kPanelVectors * kLanes<int32_t>;

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

// The median of n > 0 numbers from low to high, given by their keys, padded to whole panels with the largest key; the mean
// of the middle two where n is even. Counting narrows the range of keys without a branch a number: at the value where the rank would
// lie if numbers were spread evenly; and after a guess that left most of the numbers half way between those that there are,
// which for many equal ones is the end.
template <class X>
GPUKM_APART double median(const Key<X>* keys, int64_t n, Key<X> low, Key<X> high) {
  const int64_t rank = (n - 1) / 2;     // of the lower middle one
  int64_t below = 0, up_to = n;         // keys < low and keys <= high
  bool halve = false;
  while (low < high && up_to != rank + 1) {
    if (halve) {
      // The least and the largest key within, selected by masks: GCC would branch.
      Key<X> least = high, most = low;
      for (int64_t i = 0; i < n; ++i) {
        const Key<X> within = -Key<X>((keys[i] >= low) & (keys[i] <= high));
        const Key<X> up = (keys[i] & within) | (low & ~within), down = (keys[i] & within) | (high & ~within);
        most = up > most ? up : most;
        least = down < least ? down : least;
      }
      low = least, high = most;
      if (low == high) break;
    }
    Key<X> mid = (low & high) + ((low ^ high) >> 1);
    if (!halve) {
      const double from = value_of<X>(low), to = value_of<X>(high);
      const double share = (double(rank - below) + 0.5) / double(up_to - below);
      const Key<X> guess = key_of(X(from + (to - from) * share));
      mid = guess < low ? low : guess >= high ? high - 1 : guess;
    }
    // Padding is larger, since mid < high.
    const Keys<X> middle = mid - Keys<X>{};
    Keys<X> sums[kPanelVectors] = {};
    for (int64_t i = 0; i < n; i += kPanelRows<X>)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) sums[v] -= load_keys<X>(keys + i + v * kLanes<X>) > middle;
    Keys<X> sum = {};
    for (int v = 0; v < kPanelVectors; ++v) sum += sums[v];
    int64_t found = (n + kPanelRows<X> - 1) / kPanelRows<X> * kPanelRows<X>;
    for (int l = 0; l < kLanes<X>; ++l) found -= int64_t(sum[l]);
    const int64_t left = up_to - below;
    if (found <= rank) {
      low = mid + 1;
      below = found;
    } else {
      high = mid;
      up_to = found;
    }
    halve = !halve && 8 * (up_to - below) > 7 * left;
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

// Writes as many features of a whole panel as fill vectors; the scalar loop does the rest.
inline int64_t transpose(const double*, int64_t, double*) { return 0; }
inline int64_t transpose(const float* rows, int64_t d, float* panel) {
  int64_t f = 0;
#if defined(GPUKM_INTEGERS)
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

// D of kLanes<double> rows, whose values of a feature stand side by side and features `stride` apart, to c.
template <class X>
inline Vec<double> exact_lanes(const X* rows, int64_t stride, const double* c, int64_t d) {
  Vec<double> q[8] = {};
  int64_t f = 0;
  for (; f + 8 <= d; f += 8)
#pragma GCC unroll 8
    for (int l = 0; l < 8; ++l) {
      const Vec<double> diff = widen(rows + (f + l) * stride) - splat(c[f + l]);
      q[l] += diff * diff;
    }
#pragma GCC unroll 8
  for (int l = 0; l < 7; ++l)
    if (f + l < d) {
      const Vec<double> diff = widen(rows + (f + l) * stride) - splat(c[f + l]);
      q[l] += diff * diff;
    }
  return ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]));
}

inline int exponent_of(double v) {
  int e;
  (void)__builtin_frexp(v, &e);
  return e;
}

template <class X>
struct Rows {
  const int64_t d, most;
  int64_t n = 0, positive = 0;  // rows, and those of positive weight
  const X* x = nullptr;
  const double* w = nullptr;  // or null
  double total_weight = 0;
  double spread = 0;      // the exact sum of w D(x, reference)
  double radius = 0;      // >= |x - reference|
  int first_exponent = 0;  // of the grid that potentials are drawn on, to begin with
  double weight_scale = 1, weight_unscale = 1;
  Buffer<X> panels;
  Buffer<double> weight;   // a row; what fills up the last panel weighs nothing
  Buffer<X> narrow_weight;  // the same, rounded
  Buffer<X> minimum, maximum;
  Buffer<double> reference, scales, unscales;

  Rows(int64_t d_, int64_t most_rows)
      : d(d_), most(padded(most_rows)), panels(most * d_), weight(most), narrow_weight(most), minimum(d_), maximum(d_),
        reference(d_), scales(d_), unscales(d_), distance_(most), keys_(kHead), tree_(power_of_two(d_)) {}

  static int64_t padded(int64_t n) { return (n + kMostPanelRows - 1) / kMostPanelRows * kMostPanelRows; }
  int64_t all() const { return padded(n); }

  // Takes in the rows of a problem; false for what is left to the door of a fit.
  bool take(const X* x_, const double* w_, int64_t n_) {
    x = x_;
    w = w_;
    n = n_;
    pack();
    return weigh() && range() && spread_out();
  }

 private:
  static int grid(double most) {
    const int e = 82 - exponent_of(most);
    return e > 1000 ? 1000 : e < -1000 ? -1000 : e;
  }

  // What fills up the last panel repeats its first row.
  GPUKM_APART void pack() {
    constexpr int64_t P = kPanelRows<X>;
    for (int64_t i = 0; i < all(); i += P) {
      X* panel = panels.data() + i * d;
      // Ahead of the hardware, which stops at every page.
      for (int64_t v = 0; v < P * d; v += 64 / int64_t(sizeof(X)))
        __builtin_prefetch(x + (i + 2 * P) * d + v);
      const int64_t done = i + P <= n ? transpose(x + i * d, d, panel) : 0;
      for (int64_t f = done; f < d; ++f)
        for (int64_t r = 0; r < P; ++r) panel[f * P + r] = x[(i + r < n ? i + r : i < n ? i : 0) * d + f];
    }
  }

  bool weigh() {
    positive = n;
    total_weight = double(n);
    for (int64_t i = 0; i < n; ++i) {
      weight[i] = 1;
      narrow_weight[i] = 1;
    }
    for (int64_t i = n; i < all(); ++i) {
      weight[i] = 0;
      narrow_weight[i] = 0;
    }
    if (w) {
      LongSum sum;
      for (int64_t i = 0; i < n; ++i) {
        sum.add(w[i]);
        positive -= !(w[i] > 0);
        weight[i] = w[i];
        // In a type of less range a weight may become zero or infinite; infinity is no potential that decides.
        narrow_weight[i] = w[i] == 0 || (w[i] > 1e-15 && w[i] < 1e15) ? X(w[i]) : X(__builtin_inf());
      }
      sum.carry();
      if (!sum.finite) return false;
      total_weight = rounded(sum);
    }
    const int e = grid(total_weight);
    weight_scale = __builtin_ldexp(1.0, e);
    weight_unscale = __builtin_ldexp(1.0, -e);
    return positive > 0 && total_weight < 1e300;
  }

  // Ranges of the features, the reference, which is the median of the first rows, and grids; false where a value is too large or no number.
  GPUKM_APART bool range() {
    constexpr int64_t P = kPanelRows<X>;
    // Makes an infinity, and NaN in the end, of what is too large.
    const Vec<X> zero = {}, big = splat(X(sizeof(X) == 8 ? 0x1p558 : 1.0));
    const Vec<X> inf = splat(X(__builtin_inf()));
    Vec<X> bad = {};
    for (int64_t f = 0; f < d; ++f) {
      Vec<X> low = inf, high = -inf;
      for (int64_t i = 0; i < all(); i += P)
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) {
          const Vec<X> at = load(panels.data() + i * d + f * P + v * kLanes<X>);
          fma_into(bad, at * big, zero);
          low = vmin(low, at);
          high = vmax(high, at);
        }
      minimum[f] = low[0];
      maximum[f] = high[0];
      for (int l = 1; l < kLanes<X>; ++l) {
        minimum[f] = low[l] < minimum[f] ? low[l] : minimum[f];
        maximum[f] = high[l] > maximum[f] ? high[l] : maximum[f];
      }
      const int64_t head = n < kHead ? n : kHead;
      for (int64_t i = 0; i < head; i += P)
        for (int64_t r = 0; r < P; ++r) keys_[i + r] = key_of(panels[i * d + f * P + r]);
      for (int64_t i = head; i % P; ++i) keys_[i] = kMostKey<X>;
      // Rows of any weight, and of any sign of zero, are within the range.
      reference[f] = double(X(median<X>(keys_.data(), head, key_of(minimum[f]), key_of(maximum[f]))));
    }
    for (int l = 0; l < kLanes<X>; ++l)
      if (bad[l] != 0) return false;
    if (positive < n) range_of_positive();
    for (int64_t f = 0; f < d; ++f) {
      const double l = double(minimum[f]), h = double(maximum[f]), a = __builtin_fabs(l), b = __builtin_fabs(h);
      const double largest = a > b ? a : b;
      if (largest > kLargest) return false;
      const int e = largest > 0 ? grid(largest * total_weight) : 0;
      scales[f] = __builtin_ldexp(1.0, e);
      unscales[f] = __builtin_ldexp(1.0, -e);
      tree_[f] = (h - l) * (h - l);
    }
    first_exponent = 1000;
    const double largest = fold(tree_.data(), d) * total_weight;
    if (largest > 0) {
      const int e = kDrawBits - exponent_of(largest) - 1;
      first_exponent = e < 1000 ? e : 1000;
    }
    return true;
  }

  // The same where rows of no weight do not count.
  void range_of_positive() {
    for (int64_t f = 0; f < d; ++f) {
      minimum[f] = X(__builtin_inf());
      maximum[f] = -X(__builtin_inf());
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!(w[i] > 0)) continue;
      for (int64_t f = 0; f < d; ++f) {
        const X v = x[i * d + f];
        minimum[f] = v < minimum[f] ? v : minimum[f];
        maximum[f] = v > maximum[f] ? v : maximum[f];
      }
    }
  }

  // What lies around the reference.
  GPUKM_APART bool spread_out() {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    Vec<double> farthest = {};
    for (int64_t i = 0; i < all(); i += P)
      for (int64_t r = 0; r < P; r += L) {
        const Vec<double> v = exact_lanes(panels.data() + i * d + r, P, reference.data(), d);
        farthest = vmax(farthest, v);
        store(distance_.data() + i + r, v * load(weight.data() + i + r));
      }
    double far = 0;
    for (int l = 0; l < L; ++l) far = farthest[l] > far ? farthest[l] : far;
    // D errs by less than 2^-40 of itself.
    radius = __builtin_sqrt(far) * (1 + 0x1p-40);
    spread = exact_total(distance_.data(), n);
    return spread == spread;
  }

  Buffer<double> distance_;
  Buffer<Key<X>> keys_;
  Buffer<double> tree_;
};
