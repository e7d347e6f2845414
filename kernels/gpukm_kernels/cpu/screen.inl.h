// Assignment: screen in a fast arithmetic T, certify, and let D decide the rows that screening cannot separate.
//
// Rows stand in lanes: a panel holds kPanel rows feature by feature, and a register tile scores kPanel rows against
// R centroids whose values are broadcast. Each lane keeps its two smallest scores and the place of the smallest, so
// neither the distance matrix nor a horizontal reduction exists.
//
// Two forms of score:
//   product     s = |c'|^2 / 2 - x'.c'       x' = (x - m) 2^e, c' = (c - m) 2^e rounded to T; for D > 16
//   difference  s = sum (x - c)^2            on the stored values; for D <= 16 and T at least as wide as X
// kernels/README.md derives the bounds below.

constexpr int64_t kDifferenceMax = 16;
constexpr int64_t kChunk = 512;           // features summed in one accumulator before it is put aside
constexpr int64_t kTileBytes = 192 << 10;  // centroids of a tile; shares the second-level cache with the rows
constexpr int64_t kRowsBytes = 192 << 10;
constexpr int64_t kFarTiles = 16;  // tiles opened for far-out centroids, at most
constexpr int64_t kPendingRows = 512;

template <class T>
constexpr int kPanel = 2 * kLanes<T>;

template <class X, class T>
using Wider = decltype(X() + T());

template <class T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr double unit = 0x1p-24, tiny = 0x1p-126;
};
template <>
struct Limits<double> {
  static constexpr double unit = 0x1p-53, tiny = 0x1p-1022;
};

template <class T>
struct Tile {
  int64_t first, blocks;  // register blocks of kBlock centroids
  T largest;              // >= |c'| of every centroid in it
  int32_t group;          // tiles of a group are neighbours
};

// Centroids packed for screening in T.
template <class X, class T>
struct Packed {
  int64_t k, d, unique = 0, n_tiles = 0;
  bool difference;
  double scale = 1;
  double radius = 0;
  Buffer<Wider<X, T>> center;
  Buffer<T> panels;      // [block][d][kBlock]
  Buffer<T> half_norms;  // [block][kBlock], +inf for padding
  Buffer<int32_t> index;   // place -> centroid
  Buffer<int32_t> copies;  // place -> bit-identical centroids it stands for
  Buffer<Tile<T>> tiles;
  // |score - truth| <= by_product |x'||c'| + by_norm |c'|^2 + by_row |x'|^2 + tiny (1 + |x'|) (1 + |c'|)
  double by_product = 0, by_norm = 0, by_row = 0, tiny = 0, by_score = 0;

  bool has_copies = false;

  // `group_of` [k] keeps the centroids of groups 0 .. groups - 1 together; null for one group.
  Packed(const X* c, int64_t k_, int64_t d_, const double* center_, double radius_, const int32_t* group_of = nullptr);

  // Register blocks at most: those of the centroids, and one broken off by every tile or group that ends early.
  static int64_t most_blocks(int64_t k, const int32_t* group_of) {
    int64_t groups = 1;
    for (int64_t j = 0; group_of && j < k; ++j) groups = group_of[j] >= groups ? group_of[j] + 1 : groups;
    return k / kBlock + 1 + kFarTiles + groups;
  }
};

template <class X, class T>
Packed<X, T>::Packed(const X* c, int64_t k_, int64_t d_, const double* center_, double radius_,
                     const int32_t* group_of)
    : k(k_), d(d_), difference(d_ <= kDifferenceMax && sizeof(T) >= sizeof(X)), radius(radius_), center(d_),
      panels(most_blocks(k_, group_of) * kBlock * d_), half_norms(most_blocks(k_, group_of) * kBlock),
      index(most_blocks(k_, group_of) * kBlock), copies(most_blocks(k_, group_of) * kBlock),
      tiles(most_blocks(k_, group_of) + 1) {
  const double unit = Limits<T>::unit;
  for (int64_t f = 0; f < d; ++f) center[f] = Wider<X, T>(center_[f]);
  Buffer<double> norms(k);
  double reach = radius;
  for (int64_t j = 0; j < k; ++j)
    for (int64_t f = 0; f < d; ++f) {
      double v = __builtin_fabs(double(c[j * d + f]) - center[f]);
      reach = v > reach ? v : reach;
    }
  if (!difference && reach > 0 && reach < 1e300) {
    const int most = sizeof(Wider<X, T>) == sizeof(float) ? 126 : 1000;
    const int e = -__builtin_ilogb(reach) - 1;
    scale = __builtin_ldexp(1.0, e > most ? most : e < -most ? -most : e);
  }
  for (int64_t j = 0; j < k; ++j) {
    double sum = 0;
    for (int64_t f = 0; f < d; ++f) {
      double v = (double(c[j * d + f]) - center[f]) * scale;
      sum += v * v;
    }
    norms[j] = __builtin_sqrt(sum);
  }
  Buffer<int32_t> order(k);
  sort_by_norm(group_of, norms.data(), c, size_t(d) * sizeof(X), k, order.data());
  const double middle = norms[order[k / 2]];

  // Bit-identical centroids tie everywhere; the sort puts them side by side with the lowest index first.
  int64_t block = -1, lane = kBlock, far_tiles = 0;
  double tile_first = 0;
  const int64_t most = kTileBytes / (int64_t(sizeof(T)) * d * kBlock);
  for (int64_t p = 0; p < k; ++p) {
    const int32_t j = order[p];
    const X* row = c + int64_t(j) * d;
    const int32_t group = group_of ? group_of[j] : 0;
    const bool new_group = !n_tiles || tiles[n_tiles - 1].group != group;
    if (!new_group && __builtin_memcmp(row, c + int64_t(order[p - 1]) * d, size_t(d) * sizeof(X)) == 0) {
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
      for (int64_t i = 0; i < kBlock * d; ++i) panels[block * kBlock * d + i] = T(0);
      for (int64_t i = 0; i < kBlock; ++i) {
        half_norms[block * kBlock + i] = T(__builtin_inf());
        index[block * kBlock + i] = -1;
        copies[block * kBlock + i] = 0;
      }
    }
    for (int64_t f = 0; f < d; ++f)
      panels[(block * d + f) * kBlock + lane] =
          difference ? T(row[f]) : T((double(row[f]) - center[f]) * scale);
    half_norms[block * kBlock + lane] = difference ? T(0) : T(0.5 * norms[j] * norms[j]);
    index[block * kBlock + lane] = j;
    copies[block * kBlock + lane] = 1;
    // Norms ascend, so the last one is the largest; rounded up over sqrt, sum and conversion.
    tiles[n_tiles - 1].largest = T(norms[j] * (1 + 4 * unit + double(d + 8) * 0x1p-52) + Limits<T>::tiny);
    ++lane;
    ++unique;
  }
  // D itself errs by (d / 8 + 8) units of float64.
  const double exact = double(d / 8 + 8) * 0x1p-53;
  const double depth = double(d < kChunk ? d : kChunk) + double(d / kChunk) + 1;
  by_product = kBoundFactor * (depth + 16) * unit * (1 + 0x1p-6);
  by_norm = 8 * unit + 2 * exact;
  by_row = 2 * exact;
  by_score = kBoundFactor * (depth + 8) * unit * (1 + 0x1p-6) + 2 * exact;
  tiny = difference ? double(d + 8) * Limits<T>::tiny
                    : 8 * double(d + 8) * Limits<T>::tiny + double(d + 8) * 0x1p-1022 * scale * scale;
}

// Panels whose features [0, result) were packed by whole vectors; the scalar loop does the rest.
template <class X, class T>
struct FastPack {
  static int64_t run(const X* const*, const Packed<X, T>&, const Wider<X, T>*, T*) { return 0; }
};
#if defined(GPUKM_TRANSPOSE)
template <class X>
struct FastPack<X, float> {
  static int64_t run(const X* const* rows, const Packed<X, float>& p, const X* center, float* panel) {
    constexpr int P = kPanel<float>;
    const X scale = X(p.scale);
    int64_t f = 0;
    for (; f + 8 <= p.d; f += 8)
      for (int r = 0; r < P; r += 8) {
        __m256 a[8];
        for (int i = 0; i < 8; ++i)
          a[i] = p.difference ? as_floats(rows[r + i] + f) : as_floats(rows[r + i] + f, center + f, scale);
        transpose8(a, panel + f * P + r, P);
      }
    return f;
  }
};
#endif

// Rows gathered and packed: kPanel rows a panel, feature by feature, with an upper bound of each |x'|.
template <class X, class T>
void pack_panel(const X* const* rows, const Packed<X, T>& p, T* panel, T* norms) {
  constexpr int P = kPanel<T>;
  using W = Wider<X, T>;
  const int64_t d = p.d;
  const W* center = p.center.data();
  int64_t f = FastPack<X, T>::run(rows, p, center, panel);
  if (p.difference) {
    for (; f < d; ++f)
      for (int r = 0; r < P; ++r) panel[f * P + r] = T(rows[r][f]);
    return;
  }
  const W scale = W(p.scale);
  for (; f < d; ++f) {
    const W m = center[f];
    for (int r = 0; r < P; ++r) panel[f * P + r] = T((W(rows[r][f]) - m) * scale);
  }
  Vec<T> sum[2] = {};
  for (f = 0; f < d; ++f)
    for (int v = 0; v < 2; ++v) {
      const Vec<T> a = load(panel + f * P + v * kLanes<T>);
      sum[v] = fma(a, a, sum[v]);
    }
  const double grow = 1 + double(d + 16) * 2 * Limits<T>::unit;
  for (int r = 0; r < P; ++r)
    norms[r] = T(__builtin_sqrt(double(sum[r / kLanes<T>][r % kLanes<T>])) * grow + double(d) * Limits<T>::tiny);
}

// Scores of one panel against R centroids of one block, product form.
template <class T, int R>
inline void score_product(const T* panel, const T* c, const T* half, int64_t d, Vec<T> (&s)[R][2]) {
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

// Runs `use(place, scores)` over all blocks of a tile, where place is the position of the block's first centroid.
template <class T, int D, bool Difference, class Use>
inline void for_blocks(const Tile<T>& tile, const T* panels, const T* halves, int64_t d, const T* panel, Use use) {
  for (int64_t b = tile.first; b < tile.first + tile.blocks; ++b) {
    Vec<T> s[kBlock][2];
    if (Difference)
      score_difference<T, kBlock, D>(panel, panels + b * kBlock * d, halves + b * kBlock, d, s);
    else
      score_product<T, kBlock>(panel, panels + b * kBlock * d, halves + b * kBlock, d, s);
    use(b * kBlock, s);
  }
}

template <class T, bool Difference, class Use>
inline void for_blocks_of(const Tile<T>& tile, const T* panels, const T* halves, int64_t d, const T* panel, Use use) {
  if (Difference) {
    switch (d) {
      case 1: return for_blocks<T, 1, true>(tile, panels, halves, d, panel, use);
      case 2: return for_blocks<T, 2, true>(tile, panels, halves, d, panel, use);
      case 3: return for_blocks<T, 3, true>(tile, panels, halves, d, panel, use);
      case 4: return for_blocks<T, 4, true>(tile, panels, halves, d, panel, use);
      case 8: return for_blocks<T, 8, true>(tile, panels, halves, d, panel, use);
      case 16: return for_blocks<T, 16, true>(tile, panels, halves, d, panel, use);
      default: return for_blocks<T, 0, true>(tile, panels, halves, d, panel, use);
    }
  }
  for_blocks<T, 0, false>(tile, panels, halves, d, panel, use);
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
inline Vec<T> error_bound(const Packed<X, T>& p, T largest, Vec<T> norms) {
  const Vec<T> by_product = splat(T(p.by_product * largest)), by_row = splat(T(p.by_row));
  const Vec<T> constant = splat(T(p.by_norm * double(largest) * double(largest)));
  const Vec<T> tiny = splat(T(p.tiny * (1 + double(largest))));
  const Vec<T> one = splat(T(1));
  // A sixteenth more than the sum, for the rounding of the bound itself.
  return splat(T(1.0625)) * (by_product * norms + by_row * norms * norms + constant + tiny * (one + norms));
}

template <class X, class T, bool Difference>
inline void screen_tile(const Packed<X, T>& p, const Tile<T>& tile, const T* panel, const T* norms, State<T>& state) {
  constexpr int L = kLanes<T>;
  const Vec<T> inf = splat(T(__builtin_inf())), one = splat(T(1));
  Vec<T> m1[2] = {inf, inf}, m2[2] = {inf, inf}, at[2] = {Vec<T>{}, Vec<T>{}}, here = splat(T(tile.first * kBlock));
  for_blocks_of<T, Difference>(tile, p.panels.data(), p.half_norms.data(), p.d, panel,
                               [&](int64_t, Vec<T>(&s)[kBlock][2]) __attribute__((always_inline)) {
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
    if (Difference) {
      const Vec<T> more = splat(T(1 + p.by_score)), less = splat(T(1 - p.by_score)), tiny = splat(T(p.tiny));
      up = m1[v] * more + tiny;
      low = m1[v] * less - tiny;
      next = m2[v] * less - tiny;
      next_up = m2[v] * more + tiny;
    } else {
      const Vec<T> e = error_bound(p, tile.largest, load(norms + v * L));
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

// Evaluates D for every centroid that a row's threshold does not rule out; returns the evaluations made.
template <class X, class T, bool Difference>
inline int64_t decide_tile(const Packed<X, T>& p, const X* centroids, const Tile<T>& tile, const T* panel,
                           const T* norms, const T* threshold, const X* const* rows, int64_t count, Best* best) {
  constexpr int L = kLanes<T>;
  Vec<T> limit[2];
  for (int v = 0; v < 2; ++v) {
    const Vec<T> t = load(threshold + v * L);
    if (Difference) {
      // s (1 - by_score) - tiny <= t
      limit[v] = (t + splat(T(p.tiny))) * splat(T(1 + 2 * p.by_score));
    } else {
      limit[v] = t + error_bound(p, tile.largest, load(norms + v * L));
    }
  }
  int64_t compared = 0;
  for_blocks_of<T, Difference>(
      tile, p.panels.data(), p.half_norms.data(), p.d, panel, [&](int64_t place, Vec<T>(&s)[kBlock][2]) {
        for (int r = 0; r < kBlock; ++r) {
          const int32_t j = p.index[place + r];
          if (j < 0) continue;
          for (int v = 0; v < 2; ++v) {
            for (Mask m = not_greater(s[r][v], limit[v]); m; m &= m - 1) {
              const int64_t lane = v * L + __builtin_ctz(m);
              if (lane >= count) break;
              const double v2 = exact_distance(rows[lane], centroids + int64_t(j) * p.d, p.d);
              best[lane].take(v2, j);
              if (p.copies[place + r] > 1 && v2 < best[lane].second) best[lane].second = v2;
              ++compared;
            }
          }
        }
      });
  return compared;
}

// Centroids prepared for one data type: the first rung at once, the wide one when a sample asks for it.
template <class X>
struct Prepared {
  int64_t k, d;
  double radius;
  Buffer<X> centroids;
  Buffer<double> center;
  Packed<X, float>* narrow = nullptr;
  mutable Packed<X, double>* wide = nullptr;

  Prepared(const X* c, int64_t k_, int64_t d_, Frame frame, const int32_t* group_of = nullptr)
      : k(k_), d(d_), radius(frame.radius), centroids(k_ * d_), center(d_) {
    __builtin_memcpy(centroids.data(), c, size_t(k * d) * sizeof(X));
    __builtin_memcpy(center.data(), frame.center, size_t(d) * sizeof(double));
    // Few features screen in difference form: not float64 rows in float32, and not where squares leave its range.
    const bool narrow_squares = sizeof(X) == sizeof(float) && radius > 1e-15 && radius < 1e15;
    if (d > kDifferenceMax || narrow_squares)
      narrow = new Packed<X, float>(c, k, d, center.data(), radius, group_of);
    else
      wide = new Packed<X, double>(c, k, d, center.data(), radius, group_of);
  }
  const Packed<X, double>& wider() const {
    const Packed<X, double>* made;
#pragma omp critical(gpukm_wide)
    {
      if (!wide) wide = new Packed<X, double>(centroids.data(), k, d, center.data(), radius);
      made = wide;
    }
    return *made;
  }
  ~Prepared() {
    delete narrow;
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

template <class X, class T, bool Difference>
Counts decide(const X* x, const Prepared<X>& prepared, const Packed<X, T>& p, Pending<T>& pending, T* panel,
              int32_t* labels, double* nearest, double* second) {
  constexpr int P = kPanel<T>;
  alignas(64) T norms[P] = {}, threshold[P] = {};
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
    pack_panel(rows, p, panel, norms);
    for (int64_t t = 0; t < p.n_tiles; ++t)
      counts.compared += decide_tile<X, T, Difference>(p, prepared.centroids.data(), p.tiles[t], panel, norms,
                                                       threshold, rows, count, best);
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
  Buffer<T> panels, norms;
  Buffer<State<T>> states;
  Pending<T> pending;
  int64_t seen = 0;
  Counts counts;

  Lane(const Packed<X, T>& p_, int64_t n, int threads)
      : p(p_), rows(rows_at_once(p_.d, n, threads)), panels(rows * p_.d), norms(rows), states(rows / kPanel<T>),
        pending(rows + kPendingRows) {}

  static int64_t rows_at_once(int64_t d, int64_t n, int threads) {
    constexpr int64_t P = kPanel<T>;
    int64_t most = kRowsBytes / (d * int64_t(sizeof(T)));
    const int64_t share = n / (int64_t(threads) * 4);
    most = most < share ? most : share;
    most = most < 1024 ? most : 1024;
    return most < P ? P : most / P * P;
  }
};

template <class X, class T, bool Difference>
void flush(const X* x, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels, double* nearest,
           double* second) {
  const Counts c = decide<X, T, Difference>(x, prepared, lane.p, lane.pending, lane.panels.data(), labels, nearest,
                                            second);
  lane.counts.rechecked += c.rechecked;
  lane.counts.compared += c.compared;
}

// Labels rows [begin, end). Rows not certified wait in `pending`, which is worked off in full panels.
template <class X, class T, bool Difference>
void screen_rows(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Lane<X, T>& lane,
                 int32_t* labels, double* nearest, double* second) {
  constexpr int P = kPanel<T>;
  const Packed<X, T>& p = lane.p;
  const int64_t n_panels = (end - begin + P - 1) / P;
  for (int64_t i = 0; i < n_panels; ++i) {
    const X* rows[P];
    for (int64_t r = 0; r < P; ++r) {
      const int64_t row = begin + i * P + r;
      rows[r] = x + (row < end ? row : begin) * p.d;
    }
    pack_panel(rows, p, lane.panels.data() + i * P * p.d, lane.norms.data() + i * P);
    lane.states[i].clear();
  }
  for (int64_t t = 0; t < p.n_tiles; ++t)
    for (int64_t i = 0; i < n_panels; ++i)
      screen_tile<X, T, Difference>(p, p.tiles[t], lane.panels.data() + i * P * p.d, lane.norms.data() + i * P,
                                    lane.states[i]);
  Pending<T>& pending = lane.pending;
  for (int64_t i = 0; i < n_panels; ++i) {
    const State<T>& state = lane.states[i];
    for (int64_t r = 0; r < P && begin + i * P + r < end; ++r) {
      const int64_t row = begin + i * P + r;
      labels[row] = p.index[int64_t(state.place[r])];
      if (!second && state.upper[r] < state.rest[r]) continue;
      pending.row[pending.count] = row;
      pending.threshold[pending.count] = second ? state.second[r] : state.upper[r];
      ++pending.count;
    }
  }
  lane.seen += end - begin;
  if (pending.count >= kPendingRows) flush<X, T, Difference>(x, prepared, lane, labels, nearest, second);
}

template <class X, class T>
void screen(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels,
            double* nearest, double* second) {
  for (int64_t i = begin; i < end; i += lane.rows) {
    const int64_t stop = i + lane.rows < end ? i + lane.rows : end;
    if (lane.p.difference)
      screen_rows<X, T, true>(x, i, stop, prepared, lane, labels, nearest, second);
    else
      screen_rows<X, T, false>(x, i, stop, prepared, lane, labels, nearest, second);
  }
}

template <class X, class T>
void finish(const X* x, const Prepared<X>& prepared, Lane<X, T>& lane, int32_t* labels, double* nearest,
            double* second) {
  if (lane.p.difference)
    flush<X, T, true>(x, prepared, lane, labels, nearest, second);
  else
    flush<X, T, false>(x, prepared, lane, labels, nearest, second);
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
  int64_t step = prepared.narrow ? Lane<X, float>::rows_at_once(prepared.d, n, threads)
                                 : Lane<X, double>::rows_at_once(prepared.d, n, threads);
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Lane<X, float>* narrow = prepared.narrow ? new Lane<X, float>(*prepared.narrow, n, threads) : nullptr;
    Lane<X, double>* wide = nullptr;
    bool use_narrow = narrow != nullptr;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += step) {
      const int64_t stop = i + step < n ? i + step : n;
      if (use_narrow) {
        screen(x, i, stop, prepared, *narrow, labels, nearest, second);
        use_narrow = second || !hopeless(*narrow);
      } else {
        if (!wide) wide = new Lane<X, double>(prepared.wider(), n, threads);
        screen(x, i, stop, prepared, *wide, labels, nearest, second);
      }
    }
    if (narrow) finish(x, prepared, *narrow, labels, nearest, second);
    if (wide) finish(x, prepared, *wide, labels, nearest, second);
#pragma omp critical(gpukm_counts)
    {
      if (narrow) {
        total.rechecked += narrow->counts.rechecked;
        total.compared += narrow->counts.compared;
      }
      if (wide) {
        total.rechecked += wide->counts.rechecked;
        total.compared += wide->counts.compared;
      }
    }
    delete narrow;
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
