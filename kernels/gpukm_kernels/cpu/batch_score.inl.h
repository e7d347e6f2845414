// Scores of the rows of a small problem against a few points: squared differences in X, and products of 16-bit integers.

constexpr int kCenters = 4;  // points of a register tile, by kPanelVectors vectors of rows

constexpr int64_t tiled(int64_t points) { return (points + kCenters - 1) / kCenters * kCenters; }

// Points in register tiles; what fills up the last one is infinitely far.
template <class X>
struct Tiles {
  const int64_t d;
  int64_t n = 0;
  Buffer<X> values, shut;

  Tiles(int64_t most, int64_t d_) : d(d_), values(tiled(most) * d_), shut(tiled(most)) {}
  int64_t blocks() const { return tiled(n) / kCenters; }
  void pack(const X* points, int64_t count) {
    n = count;
    for (int64_t j = 0; j < tiled(n); ++j) {
      X* to = values.data() + j / kCenters * kCenters * d + j % kCenters;
      shut[j] = j < n ? X(0) : X(__builtin_inf());
      for (int64_t f = 0; f < d; ++f) to[f * kCenters] = j < n ? points[j * d + f] : X(0);
    }
  }
};

// How far a score s is from D: s * less - tiny <= D <= s * more + tiny, see kernels/README.md.
template <class X>
struct Margins {
  double by_score;
  Vec<X> less, more, tiny;
  explicit Margins(int64_t d) {
    const double exact = double(d / 8 + 8) * 0x1p-53;
    by_score = kBoundFactor * double(d + 8) * Limits<X>::unit * (1 + 0x1p-6) + 2 * exact;
    less = splat(X(1 - by_score));
    more = splat(X(1 + by_score));
    tiny = splat(X(double(d + 8) * Limits<X>::tiny));
  }
};

// Scores of a panel against a register tile, or against the first C points of it.
template <class X, int C>
inline void score_tile(const X* panel, const Tiles<X>& tiles, int64_t block, Vec<X> (&s)[C][kPanelVectors]) {
  const X *tile = tiles.values.data() + block * kCenters * tiles.d, *shut = tiles.shut.data() + block * kCenters;
  // Sums of its own: the caller's array could be the memory that is read.
  Vec<X> acc[C][kPanelVectors];
#pragma GCC unroll 4
  for (int j = 0; j < C; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) acc[j][v] = splat(shut[j]);
  for (int64_t f = 0; f < tiles.d; ++f) {
    Vec<X> x[kPanelVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) x[v] = load(panel + f * kPanelRows<X> + v * kLanes<X>);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      const Vec<X> c = splat(tile[f * kCenters + j]);
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) {
        const Vec<X> a = x[v] - c;
        fma_into(acc[j][v], a, a);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < C; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) s[j][v] = acc[j][v];
}

#if defined(GPUKM_INTEGERS)
// Product form in integers: with x and c taken from the reference m, p = rint(a (x - m)) and q = rint(b (c - m)), the score
// is u = p.q - rint(a b |c - m|^2 / 2), largest for the nearest, in 32 bits. Its lowest bits make room for the place of
// the centroid, so that the largest carries it along. kernels/README.md derives the bound.
template <class X>
class Integers {
 public:
  Integers(const Rows<X>& rows, int64_t k)
      : rows_(rows), d_(rows.d), k_(k), pairs_((rows.d + 1) / 2), width_((rows.d + 7) / 8 * 8),
        panels_(rows.most * pairs_), tiles_(tiled(k) * pairs_), start_(tiled(k)), bits_(width_), away_(k * width_),
        norms_(k) {
    // What fills up the last tile scores least, and what fills up features is zero.
    tiles_.zero();
    away_.zero();
    for (int64_t j = k; j < tiled(k); ++j) start_[j] = INT32_MIN;
    while (places_ + 1 < tiled(k)) places_ = 2 * places_ + 1;
  }

  // Packs the rows; false where integers do not suit them.
  GPUKM_APART bool take() {
    const double radius = rows_.radius;
    if (places_ > kMostPlaces || !(radius > 1e-25 && radius < 1e25)) return false;
    double reach = 0;
    for (int64_t f = 0; f < d_; ++f) {
      const double low = rows_.reference[f] - double(rows_.minimum[f]);
      const double high = double(rows_.maximum[f]) - rows_.reference[f];
      reach = low > reach ? low : reach;
      reach = high > reach ? high : reach;
    }
    // The ranges leave out rows of no weight.
    if (rows_.positive < rows_.n || reach > radius) reach = radius;
    const double widest = kWidest / reach, longest = kLongestRow / radius;
    const X scale = X(widest < longest ? widest : longest);
    scale_ = double(scale);
    constexpr int64_t P = kPanelRows<X>, M = kMostPanelRows;
    for (int64_t i = 0; i < rows_.all(); i += P) {
      int32_t* to = panels_.data() + i / M * M * pairs_ + i % M;
      for (int64_t g = 0; g < pairs_; ++g, to += M) {
        const X* low = rows_.panels.data() + i * d_ + 2 * g * P;
        const X low_m = X(rows_.reference[2 * g]);
        if (2 * g + 1 == d_) {
          for (int64_t r = 0; r < P; ++r) to[r] = int32_t(rounded_bits((low[r] - low_m) * scale) & 0xFFFF);
          break;
        }
        const X* high = low + P;
        const X high_m = X(rows_.reference[2 * g + 1]);
        for (int64_t r = 0; r < P; ++r)
          to[r] = int32_t((rounded_bits((low[r] - low_m) * scale) & 0xFFFF) |
                          rounded_bits((high[r] - high_m) * scale) << 16);
      }
    }
    return true;
  }

  // Packs centroids; false where integers cannot tell them apart.
  GPUKM_APART bool pack(const X* centers) {
    constexpr int L = kLanes<double>;
    double farthest = 0, reach = 0;
    for (int64_t j = 0; j < k_; ++j) {
      double* away = away_.data() + j * width_;
      for (int64_t f = 0; f < d_; ++f) away[f] = double(centers[j * d_ + f]) - rows_.reference[f];
      Vec<double> square = {}, most = {};
      for (int64_t f = 0; f < width_; f += L) {
        const Vec<double> v = load(away + f);
        square += v * v;
        most = vmax(most, vmax(v, -v));
      }
      norms_[j] = 0;
      for (int l = 0; l < L; ++l) {
        norms_[j] += square[l];
        reach = most[l] > reach ? most[l] : reach;
      }
      farthest = norms_[j] > farthest ? norms_[j] : farthest;
    }
    // Upper bounds; kError a feature.
    const double length = __builtin_sqrt(farthest) * (1 + 0x1p-40), error = kError * __builtin_sqrt(double(d_)) * 1.001;
    if (!(length > 1e-6 * rows_.radius && length < 1e25)) return false;
    const double row = scale_ * rows_.radius, places = double(places_);
    // |p.q| + a b |c - m|^2 / 2 + the margin stay below 2^31: most of it grows with b, the rest does not.
    const double fixed = (row + error) * error + 2 * (error * row + error * error + 2 + places) + places;
    const double growing = length * (row + 3 * error + scale_ * length / 2);
    const double widest = kWidest / reach, longest = (0x1p31 * 0.99 - fixed) / growing;
    if (!(longest > 0)) return false;
    const double scale = widest < longest ? widest : longest;
    margin_ = int32_t(2 * kBoundFactor * (error * (row + scale * length) + error * error + 2 + places)) + 1;
    for (int64_t j = 0; j < k_; ++j) {
      start_[j] = int32_t(-(scale_ * scale * norms_[j] / 2));
      const double* away = away_.data() + j * width_;
      uint32_t* bits = bits_.data();
      for (int64_t f = 0; f < width_; ++f) bits[f] = rounded_bits(away[f] * scale);
      int32_t* to = tiles_.data() + j / kCenters * kCenters * pairs_ + j % kCenters;
      for (int64_t g = 0; g < pairs_; ++g) to[g * kCenters] = int32_t((bits[2 * g] & 0xFFFF) | bits[2 * g + 1] << 16);
    }
    return true;
  }

  // Labels of the kMostPanelRows rows from i on, and the bits of those that stay open.
  uint64_t assign(int64_t i, int32_t* found) const {
    typedef Vec<int32_t> Ints;
    constexpr int V = kPanelVectors, L = kLanes<int32_t>;
    const int32_t* panel = panels_.data() + i * pairs_;
    const Ints places = splat(places_), margin = splat(margin_);
    Ints best[V], second[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) best[v] = second[v] = splat(INT32_MIN);
    for (int64_t first = 0; first < k_; first += kCenters) {
      const int32_t* tile = tiles_.data() + first * pairs_;
      Ints acc[kCenters][V / 2][2];
#pragma GCC unroll 4
      for (int j = 0; j < kCenters; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[j][v / 2][v % 2] = splat(start_[first + j]);
      for (int64_t g = 0; g < pairs_; ++g) {
        Ints x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = load(panel + g * V * L + v * L);
#pragma GCC unroll 4
        for (int j = 0; j < kCenters; ++j)
#pragma GCC unroll 2
          for (int v = 0; v < V; v += 2) add_pairs(acc[j][v / 2], x[v], x[v + 1], tile + g * kCenters + j);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kCenters; ++j) {
        const Ints place = splat(int32_t(first) + j);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Ints u = (acc[j][v / 2][v % 2] & ~places) | place;
          const Ints less = u < best[v] ? u : best[v];
          second[v] = less > second[v] ? less : second[v];
          best[v] = u > best[v] ? u : best[v];
        }
      }
    }
    uint64_t open = 0;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      store(found + v * L, best[v] & places);
      open |= uint64_t(sign_bits(second[v] >= best[v] - margin)) << (v * L);
    }
    return open;
  }

 private:
  static constexpr double kWidest = 32700, kLongestRow = 40000;
  // Of a rounded value: a half, and three roundings in float of at most kWidest.
  static constexpr double kError = 0.51;
  static constexpr int32_t kMostPlaces = 4095;

  // The 16 lowest bits are those of the nearest integer.
  template <class T>
  static uint32_t rounded_bits(T v) {
    const float shifted = float(v) + 12582912.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    return bits;
  }

  const Rows<X>& rows_;
  const int64_t d_, k_, pairs_, width_;
  double scale_ = 0;
  int32_t places_ = 3, margin_ = 0;
  Buffer<int32_t> panels_, tiles_, start_;
  Buffer<uint32_t> bits_;
  Buffer<double> away_, norms_;
};
#else
// Where integers are no faster.
template <class X>
class Integers {
 public:
  Integers(const Rows<X>&, int64_t) {}
  bool take() { return false; }
  bool pack(const X*) { return false; }
  uint64_t assign(int64_t, int32_t*) const { return ~uint64_t(0); }
};
#endif
