// Assignment: screen in a fast arithmetic T, certify, and let D decide the rows that screening cannot separate.
//
// Rows stand in lanes: a panel holds kPanel rows feature by feature, and a register tile scores kPanel rows against
// R centroids whose values are broadcast. Each lane keeps its two smallest scores and the place of the smallest, so
// neither the distance matrix nor a horizontal reduction exists.
//
// Three forms of score:
//   difference  s = sum (x - c)^2            on the stored values; for D <= 16 and T as wide as X
//   product     s = |c'|^2 / 2 - x'.c'       x' = (x - m) 2^e, c' = (c - m) 2^e rounded to T
//   integer     the same with x' and c' rounded to 16-bit integers, of one scale a row and one a tile of centroids,
//               multiplied pair by pair and added up in 32 bits without any error; twice the speed of float32, but a
//               row has to be rounded first: for D > 16, and for D > 8 where there are many centroids
// kernels/README.md derives the bounds below.

enum class Form { difference, product, integer };

constexpr int64_t kDifferenceMax = 16;
constexpr int64_t kFewestIntegers = 9, kManyCentroids = 256;
constexpr int64_t kChunk = 512;           // features summed in one accumulator before it is put aside
constexpr int64_t kTileBytes = 192 << 10;  // centroids of a tile; shares the second-level cache with the rows
constexpr int64_t kRowsBytes = 192 << 10;
constexpr int64_t kFarTiles = 16;  // tiles opened for far-out centroids, at most
constexpr int64_t kPendingRows = 512;
constexpr double kIntegerNorm = 46000, kIntegerMost = 32767;  // lengths and values in integer form, at most
constexpr int64_t kIntegerFeatures = 1 << 18;  // more of them would round lengths past 2^15.5

template <class T>
constexpr int kPanel = 2 * kLanes<T>;

template <class X, class T>
using Wider = decltype(X() + T());

template <class T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr double unit = 0x1p-24, tiny = 0x1p-126, most = 0x1.fp127;
};
template <>
struct Limits<double> {
  static constexpr double unit = 0x1p-53, tiny = 0x1p-1022, most = 0x1.fp1023;
};

template <class T>
struct Tile {
  int64_t first, blocks;  // register blocks of kBlock centroids
  T largest;              // >= |c'| of every centroid in it
  int32_t group;          // tiles of a group are neighbours
  T unit = 0;             // integer form: c' is an integer times this
  T residual = 0;         // but for an error of at most this length
};

// What is known of a row: at least |x'|; and as for a tile unit, of integers, and error.
template <class T>
struct Fact {
  T norm, unit, residual;
};

// The same for the rows of a panel.
template <class T>
struct Facts {
  T norm[kPanel<T>], unit[kPanel<T>], residual[kPanel<T>];
  void put(int64_t r, const Fact<T>& fact) {
    norm[r] = fact.norm;
    unit[r] = fact.unit;
    residual[r] = fact.residual;
  }
};

// Vectors that stand for others (heads.inl.h): the lengths of those, how many features they have, how much longer than these
// they may be, relatively, and how far from where they should be.
constexpr double kStandLeast = 1e-15;  // covers underflow where rows reach to one
struct Stead {
  const double* lengths;  // [k]
  int64_t features;
  double spread, drift;
};

// Centroids packed for screening in T.
template <class X, class T>
struct Packed {
  int64_t k, d, unique = 0, n_tiles = 0;
  Form form;
  int64_t words;  // values of T that a row takes in a panel; in integer form each holds two integers of 16 bits
  double scale = 1;
  double radius = 0;
  Buffer<Wider<X, T>> center;
  Buffer<T> panels;      // [block][words][kBlock]
  Buffer<T> half_norms;  // [block][kBlock], +inf for padding
  Buffer<int32_t> index;   // place -> centroid
  Buffer<int32_t> copies;  // place -> bit-identical centroids it stands for
  Buffer<Tile<T>> tiles;
  // |score - truth| <= by_product |x'||c'| + by_norm |c'|^2 + by_row |x'|^2 + tiny (1 + |x'|) (1 + |c'|)
  double by_product = 0, by_norm = 0, by_row = 0, tiny = 0, by_score = 0;

  bool has_copies = false;
  bool rough;  // rows and tiles have residuals

  void pack_integers(const X* c, Tile<T>& tile);

  // `group_of` [k] keeps the centroids of groups 0 .. groups - 1 together; null for one group. Vectors that stand for others
  // are taken as they are: about 0, in a scale of 1, and never merged.
  Packed(const X* c, int64_t k_, int64_t d_, Form form_, const double* center_, double radius_,
         const int32_t* group_of, int threads, const Stead* stead = nullptr);

  // Register blocks at most: those of the centroids, and one broken off by every tile or group that ends early.
  static int64_t most_blocks(int64_t k, const int32_t* group_of) {
    int64_t groups = 1;
    for (int64_t j = 0; group_of && j < k; ++j) groups = group_of[j] >= groups ? group_of[j] + 1 : groups;
    return k / kBlock + 1 + kFarTiles + groups;
  }
};

template <class X, class T>
Packed<X, T>::Packed(const X* c, int64_t k_, int64_t d_, Form form_, const double* center_, double radius_,
                     const int32_t* group_of, int threads, const Stead* stead)
    : k(k_), d(d_), form(form_), words(form_ == Form::integer ? (d_ + 1) / 2 : d_), radius(radius_), center(d_),
      panels(most_blocks(k_, group_of) * kBlock * words), half_norms(most_blocks(k_, group_of) * kBlock),
      index(most_blocks(k_, group_of) * kBlock), copies(most_blocks(k_, group_of) * kBlock),
      tiles(most_blocks(k_, group_of) + 1), rough(form_ == Form::integer || stead) {
  const double unit = Limits<T>::unit;
  const bool difference = form == Form::difference;
  for (int64_t f = 0; f < d; ++f) center[f] = stead ? 0 : Wider<X, T>(center_[f]);
  Buffer<double> norms(k);
  double reach = radius;
#pragma omp parallel for num_threads(threads) reduction(max : reach) schedule(static)
  for (int64_t j = 0; j < k; ++j) {
    FloatMode mode;
    for (int64_t f = 0; f < d; ++f) {
      double v = __builtin_fabs(double(c[j * d + f]) - center[f]);
      reach = v > reach ? v : reach;
    }
  }
  if (!difference && !stead && reach > 0 && reach < 1e300) {
    const int most = sizeof(Wider<X, T>) == sizeof(float) ? 126 : 1000;
    const int e = -__builtin_ilogb(reach) - 1;
    scale = __builtin_ldexp(1.0, e > most ? most : e < -most ? -most : e);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t j = 0; j < k; ++j) {
    FloatMode mode;
    double sum = 0;
    for (int64_t f = 0; f < d; ++f) {
      double v = (double(c[j * d + f]) - center[f]) * scale;
      sum += v * v;
    }
    norms[j] = stead ? stead->lengths[j] : __builtin_sqrt(sum);
  }
  // What stands for a vector is longer by its spread, and by what covers underflow.
  const double grown = 1 + (stead ? stead->spread : 0), least = stead ? 1.1 * kStandLeast : Limits<T>::tiny;
  Buffer<int32_t> order(k);
  sort_by_norm(group_of, norms.data(), c, size_t(d) * sizeof(X), k, order.data());
  const double middle = norms[order[k / 2]];

  // Bit-identical centroids tie everywhere; the sort puts them side by side with the lowest index first.
  int64_t block = -1, lane = kBlock, far_tiles = 0;
  double tile_first = 0;
  const int64_t most = kTileBytes / (int64_t(sizeof(T)) * words * kBlock);
  for (int64_t p = 0; p < k; ++p) {
    const int32_t j = order[p];
    const X* row = c + int64_t(j) * d;
    const int32_t group = group_of ? group_of[j] : 0;
    const bool new_group = !n_tiles || tiles[n_tiles - 1].group != group;
    if (!new_group && !stead && __builtin_memcmp(row, c + int64_t(order[p - 1]) * d, size_t(d) * sizeof(X)) == 0) {
      has_copies = true;
      ++copies[block * kBlock + lane - 1];
      continue;
    }
    // A tile shares one bound, so a centroid much farther out than the tile's first opens another tile.
    const double base = tile_first > middle / 8 ? tile_first : middle / 8;
    const bool far = n_tiles && !difference && far_tiles < kFarTiles && norms[j] > 16 * base;
    const bool full = n_tiles && lane == kBlock && tiles[n_tiles - 1].blocks >= (most > 1 ? most : 1);
    if (new_group || far || full) {
      far_tiles += !new_group && far;
      tiles[n_tiles++] = {block + 1, 0, T(0), group};
      tile_first = norms[j];
      lane = kBlock;
    }
    if (lane == kBlock) {
      ++block;
      ++tiles[n_tiles - 1].blocks;
      lane = 0;
      for (int64_t i = 0; i < kBlock * words; ++i) panels[block * kBlock * words + i] = T(0);
      for (int64_t i = 0; i < kBlock; ++i) {
        half_norms[block * kBlock + i] = T(__builtin_inf());
        index[block * kBlock + i] = -1;
        copies[block * kBlock + i] = 0;
      }
    }
    for (int64_t f = 0; f < d; ++f)
      if (form != Form::integer)
        panels[(block * d + f) * kBlock + lane] =
            difference ? T(row[f]) : T((double(row[f]) - center[f]) * scale);
    half_norms[block * kBlock + lane] = difference ? T(0) : T(0.5 * norms[j] * norms[j]);
    index[block * kBlock + lane] = j;
    copies[block * kBlock + lane] = 1;
    // Norms ascend, so the last one is the largest; rounded up over sqrt, sum and conversion.
    tiles[n_tiles - 1].largest = T(norms[j] * grown * (1 + 4 * unit + double(d + 8) * 0x1p-52) + least);
    ++lane;
    ++unique;
  }
  if (form == Form::integer) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < n_tiles; ++t) {
      FloatMode mode;
      pack_integers(c, tiles[t]);
    }
  }
  for (int64_t t = 0; stead && t < n_tiles; ++t)
    tiles[t].residual = T((double(tiles[t].residual) + stead->drift * double(tiles[t].largest)) * (1 + 4 * unit) + kStandLeast);
  // D itself errs by (d / 8 + 8) units of float64.
  const double exact = double((stead ? stead->features : d) / 8 + 8) * 0x1p-53;
  const double depth = form == Form::integer ? 8 : double(d < kChunk ? d : kChunk) + double(d / kChunk) + 1;
  by_product = kBoundFactor * (depth + 16) * unit * (1 + 0x1p-6);
  by_norm = 8 * unit + 2 * exact;
  by_row = 2 * exact;
  by_score = kBoundFactor * (depth + 8) * unit * (1 + 0x1p-6) + 2 * exact;
  tiny = difference ? double(d + 8) * Limits<T>::tiny
                    : 8 * double(d + 8) * Limits<T>::tiny + double(d + 8) * 0x1p-1022 * scale * scale;
  // The product of two units may be nothing where both are small.
  if (form == Form::integer) tiny += 0x1p-94;
}

// The scale that fits values of length `norm`, the largest of them `most`, into the integers; 0 where all is next to
// nothing. Two vectors no longer than kIntegerNorm have a product below 2^31.
inline double integer_scale(double norm, double most) {
  if (!(norm > 1e-30)) return 0;
  const double by_norm = kIntegerNorm / norm, by_most = kIntegerMost / most;
  return by_norm < by_most ? by_norm : by_most;
}

template <class X, class T>
void Packed<X, T>::pack_integers(const X* c, Tile<T>& tile) {
  const int64_t first = tile.first * kBlock, last = first + tile.blocks * kBlock;
  double most = 0;
  for (int64_t at = first; at < last; ++at)
    for (int64_t f = 0; f < d && index[at] >= 0; ++f) {
      const double v = __builtin_fabs((double(c[int64_t(index[at]) * d + f]) - center[f]) * scale);
      most = v > most ? v : most;
    }
  const double s = integer_scale(double(tile.largest), most);
  tile.unit = s > 0 ? T(1 / s) : T(0);
  double residual = 0;
  for (int64_t at = first; at < last; ++at) {
    if (index[at] < 0) continue;
    int16_t* out = reinterpret_cast<int16_t*>(panels.data() + at / kBlock * kBlock * words + at % kBlock);
    double sum = 0;
    for (int64_t f = 0; f < d; ++f) {
      const double v = (double(c[int64_t(index[at]) * d + f]) - center[f]) * scale;
      const double q = __builtin_rint(v * s), rest = v - q * double(tile.unit);
      const int16_t q16 = int16_t(q);
      __builtin_memcpy(out + f / 2 * 2 * kBlock + f % 2, &q16, sizeof q16);
      sum += rest * rest;
    }
    residual = sum > residual ? sum : residual;
  }
  tile.residual = T(kBoundFactor * __builtin_sqrt(residual) * (1 + 4 * Limits<T>::unit + double(d + 8) * 0x1p-52) +
                    double(tile.largest) * 0x1p-50);
}

// Whether rows are screened just as they are stored.
template <class X, class T, Form F>
constexpr bool kAsStored = F == Form::difference && sizeof(X) == sizeof(T);

// A row as screening takes it: p.words values.
template <Form F, class X, class T>
inline Fact<T> convert_row(const X* x, const Packed<X, T>& p, T* out) {
  using W = Wider<X, T>;
  const int64_t d = p.d;
  if constexpr (F == Form::difference) {
    for (int64_t f = 0; f < d; ++f) out[f] = T(x[f]);
    return {T(1), T(0), T(0)};
  }
  const W *center = p.center.data(), scale = W(p.scale);
  const double grow = 1 + double(d + 16) * 2 * Limits<T>::unit, least = double(d) * Limits<T>::tiny;
  T lanes[8] = {}, total = 0;
#if defined(GPUKM_INTEGERS)
  if constexpr (F == Form::integer) {
    constexpr double u = Limits<float>::unit;
    __m256 sum = _mm256_setzero_ps(), most = _mm256_setzero_ps();
    int64_t f = 0;
    for (; f + 8 <= d; f += 8) {
      const __m256 v = as_floats(x + f, center + f, scale);
      sum = _mm256_fmadd_ps(v, v, sum);
      most = _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v));
    }
    float mosts[8], largest = 0;
    _mm256_storeu_ps(lanes, sum);
    _mm256_storeu_ps(mosts, most);
    for (int i = 0; i < 8; ++i) {
      total += lanes[i];
      largest = mosts[i] > largest ? mosts[i] : largest;
    }
    for (; f < d; ++f) {
      const float v = __builtin_fabsf(float((x[f] - center[f]) * scale));
      total += v * v;
      largest = v > largest ? v : largest;
    }
    const double norm = __builtin_sqrt(double(total)) * grow + least;
    const float s = float(integer_scale(norm, double(largest)) * (1 - 4 * u));
    const __m256 s8 = _mm256_set1_ps(s);
    __m256 rest = _mm256_setzero_ps();
    for (f = 0; f + 16 <= d; f += 16) {
      const __m256 v0 = _mm256_mul_ps(as_floats(x + f, center + f, scale), s8);
      const __m256 v1 = _mm256_mul_ps(as_floats(x + f + 8, center + f + 8, scale), s8);
      const __m256i q0 = _mm256_cvtps_epi32(v0), q1 = _mm256_cvtps_epi32(v1);
      const __m256 e0 = _mm256_sub_ps(v0, _mm256_cvtepi32_ps(q0)), e1 = _mm256_sub_ps(v1, _mm256_cvtepi32_ps(q1));
      rest = _mm256_fmadd_ps(e0, e0, _mm256_fmadd_ps(e1, e1, rest));
      // Packing works on halves of 128 bits; the permutation puts the features in order.
      const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xD8);
      _mm256_storeu_ps(out + f / 2, _mm256_castsi256_ps(pairs));
    }
    _mm256_storeu_ps(lanes, rest);
    total = 0;
    for (int i = 0; i < 8; ++i) total += lanes[i];
    for (; f < d; f += 2) {
      int16_t pair[2] = {};
      for (int64_t i = 0; i < 2 && f + i < d; ++i) {
        const float v = float((x[f + i] - center[f + i]) * scale) * s, q = __builtin_rintf(v);
        pair[i] = int16_t(q);
        total += (v - q) * (v - q);
      }
      __builtin_memcpy(out + f / 2, pair, sizeof pair);
    }
    const double unit = s > 0 ? 1 / double(s) : 0;
    const double residual = s > 0 ? __builtin_sqrt(double(total)) * grow * unit : norm;
    return {float(norm), float(unit), float(kBoundFactor * residual * (1 + 4 * u) + 4 * u * norm)};
  }
#endif
  int64_t f = 0;
  for (; f + 8 <= d; f += 8)
    for (int i = 0; i < 8; ++i) {
      const T v = T((W(x[f + i]) - center[f + i]) * scale);
      out[f + i] = v;
      lanes[i] += v * v;
    }
  for (; f < d; ++f) {
    const T v = T((W(x[f]) - center[f]) * scale);
    out[f] = v;
    total += v * v;
  }
  for (int i = 0; i < 8; ++i) total += lanes[i];
  return {T(__builtin_sqrt(double(total)) * grow + least), T(0), T(0)};
}

// Rows laid side by side as a panel: value by value, kPanel rows each.
template <class T>
inline void interleave(const T* const* rows, int64_t words, T* panel) {
  constexpr int P = kPanel<T>;
  int64_t f = 0;
#if defined(GPUKM_INTEGERS)
  if constexpr (sizeof(T) == sizeof(float))
    for (; f + 8 <= words; f += 8)
      for (int r = 0; r < P; r += 8) {
        __m256 a[8];
        for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows[r + i] + f);
        transpose8(a, panel + f * P + r, P);
      }
#endif
  for (; f < words; ++f)
    for (int r = 0; r < P; ++r) panel[f * P + r] = rows[r][f];
}

// Rows converted and laid side by side; `room` holds a panel.
template <Form F, class X, class T>
void pack_panel(const X* const* rows, const Packed<X, T>& p, T* room, T* panel, Facts<T>& facts) {
  constexpr int P = kPanel<T>;
  if constexpr (kAsStored<X, T, F>) {
    interleave(rows, p.words, panel);
    return;
  }
  const T* converted[P];
  for (int r = 0; r < P; ++r) {
    T* out = room + r * p.words;
    facts.put(r, convert_row<F>(rows[r], p, out));
    converted[r] = out;
  }
  interleave(converted, p.words, panel);
}

// Scores of one panel against R centroids of one block, product form. A call of its own, because inlined GCC may spill sums.
template <class T, int R>
GPUKM_APART void score_product(const T* panel, const T* c, const T* half, int64_t d, Vec<T> (&s)[R][2]) {
  constexpr int P = kPanel<T>;
  if (d <= 0) __builtin_unreachable();
  for (int64_t f0 = 0; f0 < d; f0 += kChunk) {
    const int64_t f1 = f0 + kChunk < d ? f0 + kChunk : d;
    Vec<T> acc[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = Vec<T>{};
    for (int64_t f = f0; f < f1; ++f) {
      const Vec<T> x0 = load(panel + f * P), x1 = load(panel + f * P + kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec<T> b = splat(c[f * kBlock + r]);
        fma_into(acc[r][0], x0, b);
        fma_into(acc[r][1], x1, b);
      }
    }
    if (f0 == 0) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        s[r][0] = acc[r][0];
        s[r][1] = acc[r][1];
      }
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        s[r][0] += acc[r][0];
        s[r][1] += acc[r][1];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vec<T> h = splat(half[r]);
    s[r][0] = h - s[r][0];
    s[r][1] = h - s[r][1];
  }
}

// The same in difference form; padding gets +inf through `half`.
template <class T, int R, int D>
inline void score_difference(const T* panel, const T* c, const T* half, int64_t d, Vec<T> (&s)[R][2]) {
  constexpr int P = kPanel<T>;
  const int64_t n = D > 0 ? D : d;
  // Sums of its own: the caller's array could be the memory that is read.
  Vec<T> acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = splat(half[r]);
#pragma GCC unroll 1
  for (int64_t f = 0; f < n; ++f) {
    const Vec<T> x0 = load(panel + f * P), x1 = load(panel + f * P + kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> b = splat(c[f * kBlock + r]);
      const Vec<T> a0 = x0 - b, a1 = x1 - b;
      fma_into(acc[r][0], a0, a0);
      fma_into(acc[r][1], a1, a1);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    s[r][0] = acc[r][0];
    s[r][1] = acc[r][1];
  }
}

#if defined(GPUKM_INTEGERS)
// Products of a panel of integers with R centroids; a call of its own too.
template <int R>
GPUKM_APART void products(const float* panel, const float* c, int64_t words, Vec<int32_t> (&out)[R][2]) {
  constexpr int P = kPanel<float>, L = kLanes<float>;
  const int32_t* x = reinterpret_cast<const int32_t*>(panel);
  if (words <= 0) __builtin_unreachable();
  Vec<int32_t> acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = Vec<int32_t>{};
#pragma GCC unroll 1
  for (int64_t f = 0; f < words; ++f) {
    const Vec<int32_t> x0 = load(x + f * P), x1 = load(x + f * P + L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) add_pairs(acc[r], x0, x1, c + f * kBlock + r);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    out[r][0] = acc[r][0];
    out[r][1] = acc[r][1];
  }
}

// Scores in integer form; `unit` takes integers back, negative.
template <int R>
inline void score_integer(const float* panel, const float* c, const float* half, int64_t words, const Vec<float>* unit,
                          Vec<float> (&s)[R][2]) {
  Vec<int32_t> acc[R][2];
  products<R>(panel, c, words, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vec<float> h = splat(half[r]);
    s[r][0] = fma(__builtin_convertvector(acc[r][0], Vec<float>), unit[0], h);
    s[r][1] = fma(__builtin_convertvector(acc[r][1], Vec<float>), unit[1], h);
  }
}
#endif

// Runs `use(place, scores)` over all blocks of a tile, where place is the position of the block's first centroid.
template <class T, int D, Form F, class Use>
inline void for_blocks(const Tile<T>& tile, const T* panels, const T* halves, int64_t words, const T* panel,
                       const Facts<T>& facts, Use use) {
  Vec<T> unit[2];
  if constexpr (F == Form::integer)
    for (int v = 0; v < 2; ++v) unit[v] = load(facts.unit + v * kLanes<T>) * splat(-tile.unit);
  for (int64_t b = tile.first; b < tile.first + tile.blocks; ++b) {
    Vec<T> s[kBlock][2];
    const T *c = panels + b * kBlock * words, *half = halves + b * kBlock;
    if constexpr (F == Form::difference)
      score_difference<T, kBlock, D>(panel, c, half, words, s);
    else if constexpr (F == Form::product)
      score_product<T, kBlock>(panel, c, half, words, s);
#if defined(GPUKM_INTEGERS)
    else
      score_integer<kBlock>(panel, c, half, words, unit, s);
#endif
    use(b * kBlock, s);
  }
}

template <Form F, class X, class T, class Use>
inline void for_blocks_of(const Packed<X, T>& p, const Tile<T>& tile, const T* panel, const Facts<T>& facts, Use use) {
  const T *panels = p.panels.data(), *halves = p.half_norms.data();
  const int64_t n = p.words;
  if constexpr (F == Form::difference) {
    switch (n) {
      case 1: return for_blocks<T, 1, F>(tile, panels, halves, n, panel, facts, use);
      case 2: return for_blocks<T, 2, F>(tile, panels, halves, n, panel, facts, use);
      case 3: return for_blocks<T, 3, F>(tile, panels, halves, n, panel, facts, use);
      case 4: return for_blocks<T, 4, F>(tile, panels, halves, n, panel, facts, use);
      case 8: return for_blocks<T, 8, F>(tile, panels, halves, n, panel, facts, use);
      case 16: return for_blocks<T, 16, F>(tile, panels, halves, n, panel, facts, use);
      default: break;
    }
  }
  for_blocks<T, 0, F>(tile, panels, halves, n, panel, facts, use);
}

// What is known of each row of a panel after some tiles: an upper bound of its best centroid, that centroid's lower
// bound and place, a lower bound of all the others, and an upper bound of the best among these.
template <class T>
struct State {
  T upper[kPanel<T>], lower[kPanel<T>], rest[kPanel<T>], second[kPanel<T>], place[kPanel<T>];
  void clear() {
    for (int r = 0; r < kPanel<T>; ++r) {
      upper[r] = lower[r] = rest[r] = second[r] = T(__builtin_inf());
      place[r] = 0;
    }
  }
};

template <class X, class T>
inline Vec<T> error_bound(const Packed<X, T>& p, const Tile<T>& tile, const Facts<T>& facts, int v) {
  Vec<T> norms = load(facts.norm + v * kLanes<T>), residuals = Vec<T>{};
  const double largest = double(tile.largest), reach = largest + double(tile.residual);
  if (p.rough) {
    const Vec<T> residual = load(facts.residual + v * kLanes<T>);
    norms += residual;
    residuals = residual * splat(T(largest)) + norms * splat(tile.residual);
  }
  const Vec<T> by_product = splat(T(p.by_product * reach)), by_row = splat(T(p.by_row));
  const Vec<T> constant = splat(T(p.by_norm * largest * largest));
  const Vec<T> tiny = splat(T(p.tiny * (1 + reach)));
  const Vec<T> one = splat(T(1));
  // A sixteenth more than the small terms, for the rounding of the bound itself.
  return splat(T(1.0625)) * (by_product * norms + by_row * norms * norms + constant + tiny * (one + norms)) +
         splat(T(1 + 8 * Limits<T>::unit)) * residuals;
}

template <class X, class T, Form F>
inline void screen_tile(const Packed<X, T>& p, const Tile<T>& tile, const T* panel,
                        const Facts<T>& facts, State<T>& state) {
  constexpr int L = kLanes<T>;
  const Vec<T> inf = splat(T(__builtin_inf())), one = splat(T(1));
  Vec<T> m1[2] = {inf, inf}, m2[2] = {inf, inf}, at[2] = {Vec<T>{}, Vec<T>{}}, here = splat(T(tile.first * kBlock));
  for_blocks_of<F>(p, tile, panel, facts, [&](int64_t, Vec<T>(&s)[kBlock][2]) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int r = 0; r < kBlock; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        at[v] = less_select(s[r][v], m1[v], here, at[v]);
        m2[v] = vmin(m2[v], vmax(m1[v], s[r][v]));
        m1[v] = vmin(m1[v], s[r][v]);
      }
      here += one;
    }
  });
  for (int v = 0; v < 2; ++v) {
    Vec<T> up, low, next, next_up;
    if constexpr (F == Form::difference) {
      const Vec<T> more = splat(T(1 + p.by_score)), less = splat(T(1 - p.by_score)), tiny = splat(T(p.tiny));
      up = m1[v] * more + tiny;
      low = m1[v] * less - tiny;
      next = m2[v] * less - tiny;
      next_up = m2[v] * more + tiny;
    } else {
      const Vec<T> e = error_bound(p, tile, facts, v);
      up = m1[v] + e;
      low = m1[v] - e;
      next = m2[v] - e;
      next_up = m2[v] + e;
    }
    const Vec<T> upper = load(state.upper + v * L), lower = load(state.lower + v * L);
    const Vec<T> rest = load(state.rest + v * L);
    // The loser of the two bests joins the others.
    const Vec<T> loser = less_select(up, upper, vmin(lower, next), low);
    store(state.rest + v * L, vmin(rest, loser));
    store(state.second + v * L, vmin(load(state.second + v * L), less_select(up, upper, vmin(upper, next_up), up)));
    store(state.lower + v * L, less_select(up, upper, low, lower));
    store(state.place + v * L, less_select(up, upper, at[v], load(state.place + v * L)));
    store(state.upper + v * L, less_select(up, upper, up, upper));
  }
}

// The best and second best centroid of a row by D so far.
struct Best {
  double first, second;
  int32_t label;
  void clear() {
    first = second = __builtin_inf();
    label = INT32_MAX;
  }
  void take(double v, int32_t j) {
    if (v < first || (v == first && j < label)) {
      second = first;
      first = v;
      label = j;
    } else if (v < second) {
      second = v;
    }
  }
};

// Calls visit(lane, place) for every centroid of a tile that a row's threshold, a score, does not rule out.
template <class X, class T, Form F, class Visit>
inline void within_tile(const Packed<X, T>& p, const Tile<T>& tile, const T* panel, const Facts<T>& facts,
                        const T* threshold, int64_t count, Visit visit) {
  constexpr int L = kLanes<T>;
  Vec<T> limit[2];
  for (int v = 0; v < 2; ++v) {
    const Vec<T> t = load(threshold + v * L);
    if constexpr (F == Form::difference) {
      // s (1 - by_score) - tiny <= t
      limit[v] = (t + splat(T(p.tiny))) * splat(T(1 + 2 * p.by_score));
    } else {
      limit[v] = t + error_bound(p, tile, facts, v);
    }
  }
  for_blocks_of<F>(p, tile, panel, facts, [&](int64_t place, Vec<T>(&s)[kBlock][2]) {
    // Few blocks hold one: the least score of each lane tells.
    Vec<T> least[2] = {s[0][0], s[0][1]};
#pragma GCC unroll 16
    for (int r = 1; r < kBlock; ++r) {
      least[0] = vmin(least[0], s[r][0]);
      least[1] = vmin(least[1], s[r][1]);
    }
    if (!(not_greater(least[0], limit[0]) | not_greater(least[1], limit[1]))) return;
    for (int r = 0; r < kBlock; ++r) {
      if (p.index[place + r] < 0) continue;
      for (int v = 0; v < 2; ++v) {
        for (Mask m = not_greater(s[r][v], limit[v]); m; m &= m - 1) {
          const int64_t lane = v * L + __builtin_ctz(m);
          if (lane >= count) break;
          visit(lane, place + r);
        }
      }
    }
  });
}

// The arithmetics of screening, from the fastest to the most accurate.
enum Rung { kIntegerRung, kNarrowRung, kWideRung };

// Centroids prepared for one data type: for the first rung at once, for the others when a sample asks for them.
template <class X>
struct Prepared {
  int64_t k, d;
  double radius;
  Buffer<X> centroids;
  Buffer<double> center;
  Rung first;
  mutable Packed<X, float>* narrow[2] = {};  // kIntegerRung, kNarrowRung
  mutable Packed<X, double>* wide = nullptr;

  Prepared(const X* c, int64_t k_, int64_t d_, Frame frame, int threads = 1, int least = kIntegerRung,
           const int32_t* group_of = nullptr)
      : k(k_), d(d_), radius(frame.radius), centroids(k_ * d_), center(d_), first(first_rung(d_, k_, frame.radius, least)) {
    __builtin_memcpy(centroids.data(), c, size_t(k * d) * sizeof(X));
    __builtin_memcpy(center.data(), frame.center, size_t(d) * sizeof(double));
    make(first, threads, group_of);
  }
  // Few features screen in difference form, but for float64 rows in float32; not where squares leave its range.
  static Rung first_rung(int64_t d, int64_t k, double radius, int least) {
    const bool few = d <= kDifferenceMax;
    const bool integers = !few || (d >= kFewestIntegers && k >= kManyCentroids);
    if (kIntegers && integers && d <= kIntegerFeatures && least <= kIntegerRung) return kIntegerRung;
    const bool leaves_range = few && sizeof(X) == sizeof(float) && !(radius > 1e-15 && radius < 1e15);
    return least <= kNarrowRung && !leaves_range ? kNarrowRung : kWideRung;
  }
  void make(Rung rung, int threads = 1, const int32_t* group_of = nullptr) const {
    const bool difference = d <= kDifferenceMax && (rung == kWideRung || sizeof(X) == sizeof(float));
    const Form form = rung == kIntegerRung ? Form::integer : difference ? Form::difference : Form::product;
    if (rung == kWideRung)
      wide = new Packed<X, double>(centroids.data(), k, d, form, center.data(), radius, group_of, threads);
    else
      narrow[rung] = new Packed<X, float>(centroids.data(), k, d, form, center.data(), radius, group_of, threads);
  }
  void need(Rung rung) const {
#pragma omp critical(gpukm_rung)
    if (rung == kWideRung ? !wide : !narrow[rung]) make(rung);
  }
  ~Prepared() {
    delete narrow[0];
    delete narrow[1];
    delete wide;
  }
};

// Rows one thread has still to decide by D.
template <class T>
struct Pending {
  Buffer<int64_t> row;
  Buffer<T> threshold;
  int64_t count = 0;
  explicit Pending(int64_t n) : row(n), threshold(n) {}
};

template <class X, class T, Form F>
Counts decide(const X* x, const Prepared<X>& prepared, const Packed<X, T>& p, Pending<T>& pending, T* panel,
              T* room, int32_t* labels, double* nearest, double* second) {
  constexpr int P = kPanel<T>;
  alignas(64) T threshold[P] = {};
  alignas(64) Facts<T> facts = {};
  const X* rows[P];
  Best best[P];
  Counts counts;
  for (int64_t i = 0; i < pending.count; i += P) {
    const int64_t count = pending.count - i < P ? pending.count - i : P;
    for (int64_t r = 0; r < P; ++r) {
      const int64_t from = i + (r < count ? r : 0);
      rows[r] = x + pending.row[from] * p.d;
      threshold[r] = pending.threshold[from];
      best[r].clear();
    }
    pack_panel<F>(rows, p, room, panel, facts);
    for (int64_t t = 0; t < p.n_tiles; ++t)
      within_tile<X, T, F>(p, p.tiles[t], panel, facts, threshold, count, [&](int64_t lane, int64_t place) {
        const int32_t j = p.index[place];
        const double v = exact_distance(rows[lane], prepared.centroids.data() + int64_t(j) * p.d, p.d);
        best[lane].take(v, j);
        if (p.copies[place] > 1 && v < best[lane].second) best[lane].second = v;
        ++counts.compared;
      });
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = pending.row[i + r];
      labels[row] = best[r].label;
      if (nearest) nearest[row] = best[r].first;
      if (second) second[row] = best[r].second;
    }
  }
  counts.rechecked = pending.count;
  pending.count = 0;
  return counts;
}

// One thread's memory for a rung, and the rows it has still to decide.
template <class X, class T>
struct Lane {
  const Packed<X, T>& p;
  int64_t rows;  // labelled at a time
  Buffer<T> room, panels;
  Buffer<Facts<T>> facts;
  Buffer<State<T>> states;
  Pending<T> pending;
  int64_t seen = 0;
  Counts counts;

  Lane(const Packed<X, T>& p_, int64_t n, int threads)
      : p(p_), rows(rows_at_once(p_.words, n, threads)), room(kPanel<T> * p_.words), panels(rows * p_.words),
        facts(rows / kPanel<T>), states(rows / kPanel<T>), pending(rows + kPendingRows) {}

  static int64_t rows_at_once(int64_t words, int64_t n, int threads) {
    constexpr int64_t P = kPanel<T>;
    int64_t most = kRowsBytes / (words * int64_t(sizeof(T)));
    const int64_t share = n / (int64_t(threads) * 4);
    most = most < share ? most : share;
    most = most < 1024 ? most : 1024;
    return most < P ? P : most / P * P;
  }
};

template <class X, class T, Form F>
void flush(const X* x, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels, double* nearest,
           double* second) {
  const Counts c = decide<X, T, F>(x, prepared, lane.p, lane.pending, lane.panels.data(), lane.room.data(), labels,
                                   nearest, second);
  lane.counts.rechecked += c.rechecked;
  lane.counts.compared += c.compared;
}

// Labels rows [begin, end), or those that `which` names at [begin, end). Rows not certified wait in `pending`, which is
// worked off in full panels.
template <class X, class T, Form F>
void screen_rows(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Lane<X, T>& lane,
                 int32_t* labels, double* nearest, double* second, const int64_t* which = nullptr) {
  constexpr int P = kPanel<T>;
  const Packed<X, T>& p = lane.p;
  const int64_t n_panels = (end - begin + P - 1) / P;
  for (int64_t i = 0; i < n_panels; ++i) {
    const X* rows[P];
    for (int64_t r = 0; r < P; ++r) {
      const int64_t at = begin + i * P + r < end ? begin + i * P + r : begin;
      rows[r] = x + (which ? which[at] : at) * p.d;
    }
    pack_panel<F>(rows, p, lane.room.data(), lane.panels.data() + i * P * p.words, lane.facts[i]);
    lane.states[i].clear();
  }
  for (int64_t t = 0; t < p.n_tiles; ++t)
    for (int64_t i = 0; i < n_panels; ++i)
      screen_tile<X, T, F>(p, p.tiles[t], lane.panels.data() + i * P * p.words, lane.facts[i], lane.states[i]);
  Pending<T>& pending = lane.pending;
  for (int64_t i = 0; i < n_panels; ++i) {
    const State<T>& state = lane.states[i];
    for (int64_t r = 0; r < P && begin + i * P + r < end; ++r) {
      const int64_t at = begin + i * P + r, row = which ? which[at] : at;
      labels[row] = p.index[int64_t(state.place[r])];
      if (!second && state.upper[r] < state.rest[r]) continue;
      pending.row[pending.count] = row;
      pending.threshold[pending.count] = second ? state.second[r] : state.upper[r];
      ++pending.count;
    }
  }
  lane.seen += end - begin;
  if (pending.count >= kPendingRows) flush<X, T, F>(x, prepared, lane, labels, nearest, second);
}

template <Form F>
struct Is {
  static constexpr Form form = F;
};

// Calls `use` with the form as a constant.
template <class T, class Use>
inline void with_form(Form form, Use use) {
  if (form == Form::difference) return use(Is<Form::difference>());
  if constexpr (kIntegers && sizeof(T) == sizeof(float))
    if (form == Form::integer) return use(Is<Form::integer>());
  use(Is<Form::product>());
}

template <class X, class T>
void screen(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels,
            double* nearest, double* second, const int64_t* which = nullptr) {
  with_form<T>(lane.p.form, [&](auto is) {
    for (int64_t i = begin; i < end; i += lane.rows) {
      const int64_t stop = i + lane.rows < end ? i + lane.rows : end;
      screen_rows<X, T, decltype(is)::form>(x, i, stop, prepared, lane, labels, nearest, second, which);
    }
  });
}

template <class X, class T>
void finish(const X* x, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels, double* nearest,
            double* second, Counts& total) {
  with_form<T>(lane.p.form, [&](auto is) {
    flush<X, T, decltype(is)::form>(x, prepared, lane, labels, nearest, second);
  });
#pragma omp critical(gpukm_counts)
  {
    total.rechecked += lane.counts.rechecked;
    total.compared += lane.counts.compared;
  }
}

// A rung is given up when many rows stay unsettled and each of them leaves many centroids to compare: then its
// bounds tell nothing. Rows with a few true ties are cheaper to decide than to screen again.
template <class X, class T>
bool hopeless(const Lane<X, T>& lane) {
  return lane.counts.rechecked * 4 > lane.seen && lane.counts.compared > lane.counts.rechecked * (8 + lane.p.unique / 16);
}

template <class X>
Counts assign_rows(const X* x, int64_t n, const Prepared<X>& prepared, int32_t* labels, double* nearest,
                   double* second, int threads) {
  Counts total;
  const int64_t step = prepared.first == kWideRung
                           ? Lane<X, double>::rows_at_once(prepared.wide->words, n, threads)
                           : Lane<X, float>::rows_at_once(prepared.narrow[prepared.first]->words, n, threads);
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    int rung = prepared.first;
    Lane<X, float>* narrow[2] = {};
    Lane<X, double>* wide = nullptr;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += step) {
      const int64_t stop = i + step < n ? i + step : n;
      if (rung < kWideRung) {
        Lane<X, float>*& lane = narrow[rung];
        if (!lane) {
          prepared.need(Rung(rung));
          lane = new Lane<X, float>(*prepared.narrow[rung], n, threads);
        }
        screen(x, i, stop, prepared, *lane, labels, nearest, second);
        rung += !second && hopeless(*lane);
      } else {
        if (!wide) {
          prepared.need(kWideRung);
          wide = new Lane<X, double>(*prepared.wide, n, threads);
        }
        screen(x, i, stop, prepared, *wide, labels, nearest, second);
      }
    }
    for (Lane<X, float>* lane : narrow) {
      if (lane) finish(x, prepared, *lane, labels, nearest, second, total);
      delete lane;
    }
    if (wide) finish(x, prepared, *wide, labels, nearest, second, total);
    delete wide;
  }
  return total;
}

template <class X>
void* prepare(const X* centroids, int64_t k, int64_t d, Frame frame) {
  FloatMode mode;
  return new Prepared<X>(centroids, k, d, frame);
}

template <class X>
void release(void* prepared) {
  delete static_cast<Prepared<X>*>(prepared);
}

template <class X>
Counts assign(const X* x, int64_t n, const void* prepared, int32_t* labels, int threads) {
  return assign_rows(x, n, *static_cast<const Prepared<X>*>(prepared), labels, nullptr, nullptr, threads);
}

template <class X>
Counts assign_two(const X* x, int64_t n, const void* prepared, int32_t* labels, double* nearest, double* second,
                  int threads) {
  return assign_rows(x, n, *static_cast<const Prepared<X>*>(prepared), labels, nearest, second, threads);
}
