// Heads: rows and centroids by their first principal directions, and the length of what these leave of them.
//
// With P the h directions, u.v <= Pu.Pv + |rest of u| |rest of v|: a scalar product of h + 1 features bounds that of all d
// from above, and so the distance from below. Vectors of h + 1 features stand for rows (once) and centroids (in every call); the
// kernels of screening score them and list the centroids that may be as near as the row's own one of the call before. These
// few are compared in all features. Rows that keep too many are screened in all features as if there were no heads.
//
// P need not be good for labels to be right: how far its rows are from orthonormal is measured (kernels/README.md).

constexpr int64_t kHeadFeatures = 64;  // with fewer there is little to leave out
constexpr int64_t kMostHead = 256;
constexpr int64_t kHeadRows = 1 << 13;
constexpr int64_t kHits = 64;  // centroids of a row to compare, at most
constexpr double kFarthestHead = 0x1p60;  // centroids farther out, against most rows, have norms that overflow

// Vectors laid side by side as score_product() takes them; whole register blocks.
inline int64_t block_values(int64_t n, int64_t d) { return (n + kBlock - 1) / kBlock * kBlock * d; }
inline void pack_blocks(const float* vectors, int64_t n, int64_t d, Buffer<float>& blocks) {
  blocks.zero();
  for (int64_t j = 0; j < n; ++j)
    for (int64_t f = 0; f < d; ++f) blocks[(j / kBlock * d + f) * kBlock + j % kBlock] = vectors[j * d + f];
}

// out[r][j] = panel_r . b_j, of `rows` rows of a panel and m vectors in blocks.
inline void panel_products(const float* panel, int64_t rows, const float* blocks, int64_t m, int64_t d, float* out, int64_t stride) {
  constexpr int L = kLanes<float>;
  const float half[kBlock] = {};
  for (int64_t j = 0; j < m; j += kBlock) {
    Vec<float> s[kBlock][2];
    score_product<float, kBlock>(panel, blocks + j * d, half, d, s);
    for (int64_t c = 0; c < kBlock && j + c < m; ++c)
      for (int64_t r = 0; r < rows; ++r) out[r * stride + j + c] = -s[c][r / L][r % L];
  }
}

// Directions: h of d features, nearly orthonormal.
struct Directions {
  int64_t h, d;
  Buffer<float> p;       // [h][d]
  Buffer<float> blocks;  // as score_product() takes them
  double defect = 0;     // |P P' - 1| at most

  Directions(int64_t h_, int64_t d_) : h(h_), d(d_), p(h * d), blocks(block_values(h, d)) {}

  void finish(int threads) {
    pack_blocks(p.data(), h, d, blocks);
    double squares = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : squares) schedule(dynamic)
    for (int64_t i = 0; i < h; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double lanes[8] = {};
        int64_t f = 0;
        for (; f + 8 <= d; f += 8)
          for (int l = 0; l < 8; ++l) lanes[l] += double(p[i * d + f + l]) * double(p[j * d + f + l]);
        for (; f < d; ++f) lanes[0] += double(p[i * d + f]) * double(p[j * d + f]);
        double dot = i == j ? -1 : 0;
        for (int l = 0; l < 8; ++l) dot += lanes[l];
        squares += (i == j ? 1 : 2) * dot * dot;
      }
    defect = __builtin_sqrt(squares) + double(h) * double(d) * 0x1p-50;
  }
};

// The rows of q made orthonormal one after the other, so that the first ones never depend on the later.
inline void make_orthonormal(float* q, int64_t h, int64_t d) {
  constexpr int64_t L = 16;
  for (int64_t j = 0; j < h; ++j) {
    float* v = q + j * d;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t i = 0; i < j; ++i) {
        const float* u = q + i * d;
        float lanes[L] = {}, dot = 0;
        int64_t f = 0;
        for (; f + L <= d; f += L)
          for (int l = 0; l < L; ++l) lanes[l] += u[f + l] * v[f + l];
        for (; f < d; ++f) dot += u[f] * v[f];
        for (int l = 0; l < L; ++l) dot += lanes[l];
        for (f = 0; f < d; ++f) v[f] -= dot * u[f];
      }
      double square = 0;
      for (int64_t f = 0; f < d; ++f) square += double(v[f]) * double(v[f]);
      const float inverse = square > 1e-30 ? float(1 / __builtin_sqrt(square)) : 0;
      for (int64_t f = 0; f < d; ++f) v[f] *= inverse;
    }
  }
}

// out[i][j] = a_i . b_j, of n and m vectors of d features.
inline void products_of(const float* a, int64_t n, const float* b, int64_t m, int64_t d, float* out, int threads) {
  constexpr int P = kPanel<float>;
  Buffer<float> blocks(block_values(m, d));
  pack_blocks(b, m, d, blocks);
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Buffer<float> panel(P * d);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += P) {
      const float* rows[P];
      for (int64_t r = 0; r < P; ++r) rows[r] = a + (i + r < n ? i + r : i) * d;
      interleave(rows, d, panel.data());
      panel_products(panel.data(), n - i < P ? n - i : P, blocks.data(), m, d, out + i * m, m);
    }
  }
}

// How x' is made of a row: (x - middle) scale, in float32.
template <class X>
struct Origin {
  int64_t d;
  Buffer<X> middle;
  double scale = 1;
  Origin(Frame frame, int64_t d_) : d(d_), middle(d_) {
    for (int64_t f = 0; f < d; ++f) middle[f] = X(frame.center[f]);
    if (frame.radius > 0) scale = __builtin_ldexp(1.0, -__builtin_ilogb(frame.radius) - 1);
  }
  bool same(Frame frame) const {
    for (int64_t f = 0; f < d; ++f)
      if (middle[f] != X(frame.center[f])) return false;
    return true;
  }
  void convert(const X* x, float* out) const {
    using W = Wider<X, float>;
    for (int64_t f = 0; f < d; ++f) out[f] = float((W(x[f]) - W(middle[f])) * W(scale));
  }
  // |x'|^2, within 2^-40 of it.
  double square(const X* x) const { return exact_distance(x, middle.data(), d) * scale * scale; }
};

// About the first principal directions of a sample of rows: one step of orthogonal iteration from rows themselves, in which
// the first j directions are those that j alone would give.
template <class X>
Directions* principal_directions(const X* x, int64_t n, const Origin<X>& origin, int64_t h, int threads) {
  const int64_t d = origin.d;
  int64_t m = 2 * d > 1024 ? 2 * d : 1024;
  m = m < n ? m : n;
  Buffer<float> sample(m * d), turned(d * m), moments(d * d), start(h * d);
  for (int64_t i = 0; i < m; ++i) origin.convert(x + i * n / m * d, sample.data() + i * d);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t f = 0; f < d; ++f) turned[f * m + i] = sample[i * d + f];
  products_of(turned.data(), d, turned.data(), d, m, moments.data(), threads);
  Directions* out = new Directions(h, d);
  for (int64_t j = 0; j < h; ++j) __builtin_memcpy(start.data() + j * d, sample.data() + j * m / h * d, size_t(d) * sizeof(float));
  products_of(start.data(), h, moments.data(), d, d, out->p.data(), threads);
  make_orthonormal(out->p.data(), h, d);
  out->finish(threads);
  return out;
}

// Makes what stands for vectors, a panel at a time.
template <class X>
struct Standing {
  static constexpr int P = kPanel<float>;
  const Origin<X>& origin;
  const Directions& directions;
  double drift;  // |Pu as computed - Pu| <= drift |u|
  Buffer<float> room, panel;
  double square[P];  // |u|^2

  Standing(const Origin<X>& origin_, const Directions& directions_)
      : origin(origin_), directions(directions_), drift(drift_of(directions_)), room(P * origin_.d), panel(P * origin_.d) {}

  // A scalar product errs by at most as many units as its chain is long, two of its factor, and P's rows have length 1.
  static double drift_of(const Directions& p) {
    const double depth = double(p.d < kChunk ? p.d : kChunk) + double(p.d / kChunk) + 8;
    return kBoundFactor * depth * 0x1p-24 * __builtin_sqrt(double(p.h)) * 1.01;
  }
  // out: [P][h + 1].
  void make(const X* const* rows, float* out) {
    const int64_t h = directions.h, d = directions.d;
    const float* converted[P];
    for (int64_t r = 0; r < P; ++r) {
      origin.convert(rows[r], room.data() + r * d);
      converted[r] = room.data() + r * d;
    }
    interleave(converted, d, panel.data());
    panel_products(panel.data(), P, directions.blocks.data(), h, d, out, h + 1);
    for (int64_t r = 0; r < P; ++r) {
      square[r] = origin.square(rows[r]);
      double head = 0;
      for (int64_t j = 0; j < h; ++j) head += double(out[r * (h + 1) + j]) * double(out[r * (h + 1) + j]);
      const double rest = square[r] > head ? square[r] - head : 0;
      const double slack = (2 * directions.defect + 3 * drift + 0x1p-20) * square[r] + kStandLeast * kStandLeast;
      out[r * (h + 1) + h] = float(__builtin_sqrt(rest + slack) * (1 + 0x1p-22));
    }
  }
};

template <class X>
struct Heads {
  static constexpr Form form = kIntegers ? Form::integer : Form::product;
  static constexpr int P = kPanel<float>;
  int64_t n, d;
  Origin<X> origin;
  Directions* directions;
  int64_t words;
  Buffer<float> panels;        // [n / P][words][P] rows
  Buffer<Facts<float>> facts;  // [n / P]
  Buffer<float> square;        // [n] |u|^2 at least
  double cost = 0;             // nanoseconds a row, as in Costs

  Heads(const X* x, int64_t n_, Frame frame, Directions* directions_, int threads)
      : n(n_), d(directions_->d), origin(frame, d), directions(directions_), words(words_of(directions_->h)),
        panels((n + P - 1) / P * P * words), facts((n + P - 1) / P), square(n) {
    // The form of packed centroids, to convert rows by: as the middle of all rows has it.
    Packed<float, float>* shape = pack(origin.middle.data(), 1, threads);
#pragma omp parallel num_threads(threads)
    {
      FloatMode mode;
      Standing<X> standing(origin, *directions);
      Buffer<float> heads(P * (directions->h + 1)), room(P * words);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n; i += P) {
        const X* rows[P];
        const float* converted[P];
        for (int64_t r = 0; r < P; ++r) rows[r] = x + (i + r < n ? i + r : i) * d;
        standing.make(rows, heads.data());
        for (int64_t r = 0; r < P; ++r) {
          Fact<float> fact = convert_row<form>(heads.data() + r * (directions->h + 1), *shape, room.data() + r * words);
          const double length = __builtin_sqrt(standing.square[r]), far = standing.drift * length * 1.01 + kStandLeast;
          const double norm = (double(fact.norm) > length ? double(fact.norm) : length) + far;
          fact.norm = float(norm * (1 + 0x1p-22));
          fact.residual = float((double(fact.residual) + far) * (1 + 0x1p-22));
          facts[i / P].put(r, fact);
          converted[r] = room.data() + r * words;
          if (i + r < n) square[i + r] = float(standing.square[r] * (1 - 0x1p-22));
        }
        interleave(converted, words, panels.data() + i * words);
      }
    }
    delete shape;
  }
  ~Heads() { delete directions; }
  // Whether they may be used with this frame, which is that of a whole fit.
  bool fits(Frame frame) const { return within(frame) && origin.same(frame); }
  static bool within(Frame frame) { return frame.radius > 1e-15 && frame.radius < 1e15; }
  Heads(const Heads&) = delete;

  static int64_t words_of(int64_t h) { return form == Form::integer ? (h + 2) / 2 : h + 1; }

  // Null where a centroid is too far out.
  Packed<float, float>* pack(const X* centroids, int64_t k, int threads) const {
    const int64_t width = directions->h + 1;
    Buffer<float> heads((k + P - 1) / P * P * width);
    Buffer<double> lengths(k), zero(width);
#pragma omp parallel num_threads(threads)
    {
      FloatMode mode;
      Standing<X> standing(origin, *directions);
#pragma omp for schedule(static)
      for (int64_t j = 0; j < k; j += P) {
        const X* rows[P];
        for (int64_t r = 0; r < P; ++r) rows[r] = centroids + (j + r < k ? j + r : j) * d;
        standing.make(rows, heads.data() + j * width);
        for (int64_t r = 0; r < P && j + r < k; ++r) lengths[j + r] = __builtin_sqrt(standing.square[r]);
      }
    }
    for (int64_t j = 0; j < k; ++j)
      if (!(lengths[j] < kFarthestHead)) return nullptr;
    zero.zero();
    const double drift = Standing<X>::drift_of(*directions), spread = 5 * drift + 2 * directions->defect + 0x1p-18;
    const Stead stead = {lengths.data(), d, spread, drift * 1.01};
    return new Packed<float, float>(heads.data(), k, width, form, zero.data(), 1, nullptr, threads, &stead);
  }
};

// D(x, c) lies between; a comparison in float32 where rows are, else D itself.
struct Between {
  double low, high;
};
inline Between between(const double* x, const double* c, int64_t d) {
  const double v = exact_distance(x, c, d);
  return {v, v};
}
inline Between between(const float* x, const float* c, int64_t d) {
  constexpr int L = kLanes<float>;
  Vec<float> q[4] = {};
  int64_t f = 0;
  for (; f + 4 * L <= d; f += 4 * L)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec<float> a = load(x + f + i * L) - load(c + f + i * L);
      fma_into(q[i], a, a);
    }
  float rest = 0;
  for (; f < d; ++f) rest += (x[f] - c[f]) * (x[f] - c[f]);
  const Vec<float> sums = (q[0] + q[1]) + (q[2] + q[3]);
  double v = double(rest);
  for (int l = 0; l < L; ++l) v += double(sums[l]);
  if (!(v < 1e37)) {
    v = exact_distance(x, c, d);
    return {v, v};
  }
  // Three roundings a term, the chain of a lane or of the rest; and what D itself errs by.
  const double chain = double(d / (4 * L) > 4 * L ? d / (4 * L) : 4 * L);
  const double loose = kBoundFactor * (chain + 8) * 0x1p-24 * (1 + 0x1p-6) + double(d / 8 + 8) * 0x1p-52;
  const double tiny = double(d + 8) * 0x1p-126;
  return {v * (1 - loose) - tiny, v * (1 + loose) + tiny};
}

// One thread's memory for rows that are assigned by their heads.
template <class X>
struct HeadLane {
  int64_t rows;              // looked at together, whole panels
  Buffer<Between> own;       // [rows]
  Buffer<float> threshold;   // [rows] scores above which a centroid is farther than the own one
  Buffer<int32_t> hit;       // [rows][kHits] places
  Buffer<float> low;         // [rows][kHits] their scores, at least
  Buffer<int32_t> hits;      // [rows]
  Buffer<int64_t> left;      // rows with too many
  int64_t n_left = 0;
  Lane<X, float>* all = nullptr;  // for these,
  int rung = kIntegerRung;        // in this arithmetic at least
  Counts counts;
  int64_t compared = 0;

  HeadLane(int64_t words, int64_t n, int threads)
      : rows(Lane<X, float>::rows_at_once(words, n, threads)), own(rows), threshold(rows), hit(rows * kHits),
        low(rows * kHits), hits(rows), left(rows + kPendingRows) {}
  ~HeadLane() { delete all; }
};

template <class X>
struct HeadRows {
  static constexpr Form F = Heads<X>::form;
  static constexpr int P = kPanel<float>;
  const X *x, *centroids;
  const Heads<X>& heads;
  const Packed<float, float>& p;
  int32_t* labels;

  // At least the score of a centroid at this distance of row i.
  float score_up(int64_t i, double distance) const {
    const double scaled = distance * heads.origin.scale * heads.origin.scale * (1 + 0x1p-40);
    const double t = 0.5 * (scaled - double(heads.square[i]));
    return float(t + __builtin_fabs(t) * 0x1p-22 + 1e-30);
  }

  void list_tile(const Tile<float>& tile, const float* panel, const Facts<float>& facts, HeadLane<X>& lane, int64_t at) const {
    constexpr int L = kLanes<float>;
    Vec<float> limit[2], error[2];
    for (int v = 0; v < 2; ++v) {
      error[v] = error_bound(p, tile, facts, v);
      limit[v] = load(lane.threshold.data() + at + v * L) + error[v];
    }
    for_blocks_of<F>(p, tile, panel, facts, [&](int64_t place, Vec<float>(&s)[kBlock][2]) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int r = 0; r < kBlock; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v)
          for (Mask m = not_greater(s[r][v], limit[v]); m; m &= m - 1) {
            const int l = __builtin_ctz(m);
            int32_t& count = lane.hits[at + v * L + l];
            if (count < kHits) {
              lane.hit[(at + v * L + l) * kHits + count] = int32_t(place + r);
              lane.low[(at + v * L + l) * kHits + count] = s[r][v][l] - error[v][l];
            }
            ++count;
          }
    });
  }

  // The nearest of the centroids that a row keeps, its own one among them.
  void settle(int64_t i, int64_t at, HeadLane<X>& lane) const {
    Between met[kHits + 1];
    int32_t label[kHits + 1], own = labels[i];
    int64_t n_met = 1;
    met[0] = lane.own[at], label[0] = own;
    double least = met[0].high;
    float threshold = lane.threshold[at];
    for (int64_t a = 0; a < lane.hits[at]; ++a) {
      const int32_t j = p.index[lane.hit[at * kHits + a]];
      // Places without a centroid score infinity, which an infinite threshold does not rule out.
      if (j < 0 || j == own || lane.low[at * kHits + a] > threshold) continue;
      const Between b = between(x + i * heads.d, centroids + int64_t(j) * heads.d, heads.d);
      ++lane.compared;
      if (b.low > least) continue;
      met[n_met] = b, label[n_met++] = j;
      if (b.high < least) {
        least = b.high;
        threshold = score_up(i, least);
      }
    }
    int64_t near = 0, nearest = 0;
    for (int64_t a = 0; a < n_met; ++a)
      if (met[a].low <= least) ++near, nearest = a;
    if (near > 1) {
      Best best;
      best.clear();
      for (int64_t a = 0; a < n_met; ++a)
        if (met[a].low <= least)
          best.take(exact_distance(x + i * heads.d, centroids + int64_t(label[a]) * heads.d, heads.d), label[a]);
      labels[i] = best.label;
      ++lane.counts.rechecked;
      lane.counts.compared += near;
    } else {
      labels[i] = label[nearest];
    }
  }

  void run(int64_t begin, int64_t end, HeadLane<X>& lane) const {
    for (int64_t i = begin; i < end; ++i) {
      lane.own[i - begin] = between(x + i * heads.d, centroids + int64_t(labels[i]) * heads.d, heads.d);
      lane.threshold[i - begin] = score_up(i, lane.own[i - begin].high);
      lane.hits[i - begin] = 0;
    }
    // Lanes without a row keep nothing.
    for (int64_t i = end; i % P; ++i) lane.threshold[i - begin] = -float(Limits<float>::most), lane.hits[i - begin] = 0;
    for (int64_t t = 0; t < p.n_tiles; ++t)
      for (int64_t i = begin; i < end; i += P)
        list_tile(p.tiles[t], heads.panels.data() + i * heads.words, heads.facts[i / P], lane, i - begin);
    for (int64_t i = begin; i < end; ++i) {
      if (lane.hits[i - begin] > kHits)
        lane.left[lane.n_left++] = i;
      else
        settle(i, i - begin, lane);
    }
  }
};

// What heads cost a row in a call, where `compared` centroids are met in full and a share of rows keeps too many.
inline double heads_cost(const Costs& costs, int64_t d, int64_t h, int64_t k, double compared, double left) {
  const Costs few(h + 2, 0, kIntegers);
  return 20 + 0.06 * double(d) + double(k) * few.score + compared * (10 + 0.05 * double(d)) +
         left * (costs.open + double(k) * costs.score);
}

// Labels rows by their heads; `labels` holds those of the call before. False where centroids are too far out for it.
template <class X>
bool assign_heads(const X* x, const X* centroids, int64_t k, Frame frame, Heads<X>& heads, const Costs& costs,
                  int32_t* labels, Counts* counts, int64_t* scored, int threads) {
  const Packed<float, float>* p = heads.pack(centroids, k, threads);
  if (!p) return false;
  const HeadRows<X> rows = {x, centroids, heads, *p, labels};
  Prepared<X>* plain = nullptr;
  Counts total;
  int64_t compared = 0, left = 0;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    HeadLane<X>* lane = new HeadLane<X>(p->words, heads.n, threads);
    auto screen_left = [&] {
      if (!lane->n_left) return;
#pragma omp critical(gpukm_rung)
      if (!plain) plain = new Prepared<X>(centroids, k, heads.d, frame);
      if (!lane->all) {
        lane->rung = lane->rung < plain->first ? plain->first : lane->rung;
        plain->need(Rung(lane->rung));
        lane->all = new Lane<X, float>(*plain->narrow[lane->rung], heads.n, threads);
      }
      screen(x, 0, lane->n_left, *plain, *lane->all, labels, nullptr, nullptr, lane->left.data());
      if (lane->rung == kIntegerRung && hopeless(*lane->all)) {
        finish<X, float>(x, *plain, *lane->all, labels, nullptr, nullptr, total);
        delete lane->all;
        lane->all = nullptr;
        lane->rung = kNarrowRung;
      }
#pragma omp atomic
      left += lane->n_left;
      lane->n_left = 0;
    };
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < heads.n; i += lane->rows) {
      rows.run(i, i + lane->rows < heads.n ? i + lane->rows : heads.n, *lane);
      if (lane->n_left >= kPendingRows) screen_left();
    }
    screen_left();
    if (lane->all) finish<X, float>(x, *plain, *lane->all, labels, nullptr, nullptr, total);
#pragma omp critical(gpukm_counts)
    {
      total.rechecked += lane->counts.rechecked;
      total.compared += lane->counts.compared;
      compared += lane->compared;
    }
    delete lane;
  }
  delete p;
  delete plain;
  const double n = double(heads.n);
  heads.cost = heads_cost(costs, heads.d, heads.directions->h, k, double(compared) / n, double(left) / n);
  *scored = compared + left * k;
  *counts = total;
  return true;
}

// How many directions would do best for some rows in this call, and what they would cost a row.
struct HeadChoice {
  int64_t h = 0;
  double cost = 1e300;
};

template <class X>
HeadChoice probe_heads(const X* x, int64_t n, const X* centroids, int64_t k, const int32_t* labels, const Origin<X>& origin,
                       const Directions& all, const Costs& costs, int threads) {
  constexpr int kSteps = 16;
  const int64_t d = origin.d, most = all.h;
  const int64_t rows = sample_size(n);
  Buffer<float> u(rows * d), v(k * d), pu(rows * most), pv(k * most);
  for (int64_t s = 0; s < rows; ++s) origin.convert(x + s * n / rows * d, u.data() + s * d);
  for (int64_t j = 0; j < k; ++j) origin.convert(centroids + j * d, v.data() + j * d);
  products_of(u.data(), rows, all.p.data(), most, d, pu.data(), threads);
  products_of(v.data(), k, all.p.data(), most, d, pv.data(), threads);
  // rest[.][i]: |u|^2 less that of the first i / kSteps of the directions; step 0 has none of them.
  auto rests = [&](const Buffer<float>& head, int64_t m, auto row, Buffer<float>& rest) {
    for (int64_t i = 0; i < m; ++i) {
      double left = origin.square(row(i));
      for (int64_t step = 0, j = 0; step <= kSteps; ++step) {
        for (; j < most * step / kSteps; ++j) left -= double(head[i * most + j]) * double(head[i * most + j]);
        rest[i * (kSteps + 1) + step] = float(left > 0 ? left : 0);
      }
    }
  };
  Buffer<float> rest_u(rows * (kSteps + 1)), rest_v(k * (kSteps + 1));
  rests(pu, rows, [&](int64_t s) { return x + s * n / rows * d; }, rest_u);
  rests(pv, k, [&](int64_t j) { return centroids + j * d; }, rest_v);
  int64_t kept[kSteps + 1] = {}, left[kSteps + 1] = {};
#pragma omp parallel num_threads(threads)
  {
    int64_t mine[kSteps + 1] = {}, crowded[kSteps + 1] = {};
#pragma omp for schedule(dynamic)
    for (int64_t s = 0; s < rows; ++s) {
      const int64_t i = s * n / rows;
      const float own = float(exact_distance(x + i * d, centroids + int64_t(labels[i]) * d, d) * origin.scale * origin.scale);
      int64_t count[kSteps + 1] = {};
      for (int64_t j = 0; j < k; ++j) {
        // Lower bounds of |u - v|^2 rise step by step: |Pu - Pv|^2 + (|rest of u| - |rest of v|)^2.
        float head = 0;
        for (int64_t step = 1; step <= kSteps; ++step) {
          for (int64_t f = most * (step - 1) / kSteps; f < most * step / kSteps; ++f) {
            const float a = pu[s * most + f] - pv[j * most + f];
            head += a * a;
          }
          const float a = __builtin_sqrtf(rest_u[s * (kSteps + 1) + step]) - __builtin_sqrtf(rest_v[j * (kSteps + 1) + step]);
          if (head + a * a > own) break;
          ++count[step];
        }
      }
      for (int64_t step = 1; step <= kSteps; ++step) {
        if (count[step] > kHits)
          ++crowded[step];
        else
          mine[step] += count[step];
      }
    }
#pragma omp critical(gpukm_counts)
    for (int step = 1; step <= kSteps; ++step) kept[step] += mine[step], left[step] += crowded[step];
  }
  HeadChoice best;
  for (int step = 1; step <= kSteps; ++step) {
    const int64_t h = most * step / kSteps;
    if (!h) continue;
    // A row's head is made once, a feature of a direction at twice the cost of an integer.
    const double make = 0.022 * double(d) * double(h) + double(d);
    const double cost = heads_cost(costs, d, h, k, double(kept[step]) / double(rows), double(left[step]) / double(rows));
    if (cost + make / kRepaid < best.cost) best = {h, cost + make / kRepaid};
  }
  return best;
}

// Makes heads of rows where that is better than `others`, the cost of a row without; null where it is not.
template <class X>
Heads<X>* think_of_heads(const X* x, int64_t n, int64_t d, const X* centroids, int64_t k, Frame frame, const int32_t* labels,
                         const Costs& costs, double others, bool always, int threads) {
  if (!Heads<X>::within(frame)) return nullptr;
  int64_t most = kIntegers ? d / 2 : d / 4;
  most = most < kMostHead ? most : kMostHead;
  most = most > 1 ? most : 1;
  // Finding directions takes so long, whatever comes of it.
  const double features = double(d), sample = features > 512 ? 2 * features : 1024, h = double(most);
  const double once = 0.022 * features * features * (sample + h) + 0.5 * h * h * features;
  if (!always && (d < kHeadFeatures || n < kHeadRows || once > 0.3 * double(n) * others)) return nullptr;
  const Origin<X> origin(frame, d);
  Directions* all = principal_directions(x, n, origin, most, threads);
  HeadChoice choice = {most / 2 > 1 ? most / 2 : 1, 0};
  if (!always) choice = probe_heads(x, n, centroids, k, labels, origin, *all, costs, threads);
  Heads<X>* heads = nullptr;
  if (choice.cost < 0.8 * others && all->defect < 0x1p-10) {
    Directions* some = new Directions(choice.h, d);
    __builtin_memcpy(some->p.data(), all->p.data(), size_t(choice.h * d) * sizeof(float));
    some->finish(threads);
    heads = new Heads<X>(x, n, frame, some, threads);
    heads->cost = choice.cost;
  }
  delete all;
  return heads;
}
