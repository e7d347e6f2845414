// Assignment that remembers: group bounds in the manner of Yinyang k-means (Ding et al., ICML 2015), on certified
// intervals, so that labels stay exactly those of D.
//
// Centroids are partitioned once into groups of neighbours. A row keeps an upper bound of the distance to its own
// centroid and, for every group, a lower bound of the distance to the group's other centroids. When centroids move, bounds
// move by no more than their centroid's or group's largest shift (triangle inequality). A group whose lower bound stays
// above the row's upper bound cannot hold the nearest centroid.
//
// One centroid that jumps would spoil the bounds of its whole group. So in every call the fastest centroids, as many as a
// sample of rows says pay, stand apart as movers: all rows are scored against these, and bounds follow the others.
//
// Rows to score are gathered into dense panels, or where they are many all rows are packed once. kernels/README.md has
// the roundings.

// Rows looked at together: many, so that the few survivors of a group still fill panels.
constexpr int64_t kTrackRows = 2048;
constexpr int64_t kTrackBytes = 16 << 20;
// Gathering and packing a row costs as much as scoring it against so many centroids.
constexpr int64_t kPackCost = 6;
// Numbers of movers to choose from: k / 2^i for i from kFewestMovers down to kMostMovers, or none.
constexpr int kFewestMovers = 8, kMostMovers = 2;
constexpr int64_t kSampleRows = 512;
// Margin between bounds before a group is skipped: far above the errors of D and of float32 bounds.
constexpr float kMargin = 1.0f + 0x1p-20f;
// Stands for any larger distance: an infinity would not survive subtractions.
constexpr float kFar = 0x1p126f;

template <class X>
struct Tracker {
  int64_t n, d, k, groups;
  bool started = false;
  int rung;  // past kWideRung once bounds are given up
  Buffer<int32_t> group_of;  // [k]
  Buffer<float> upper;       // [n] distance to the own centroid, at most
  Buffer<float> lower;       // [n][groups] distance to the others of the group, at least
  Buffer<X> previous;        // [k][d]
  int64_t scored = 0, pairs = 0;  // (row, group) pairs of the last call: scored, and all

  Tracker(int64_t n_, int64_t d_, int64_t k_, int64_t groups_, const int32_t* group_of_)
      : n(n_), d(d_), k(k_), groups(groups_), rung(kIntegerRung), group_of(k_), upper(n_), lower(n_ * groups_), previous(k_ * d_) {
    __builtin_memcpy(group_of.data(), group_of_, size_t(k) * sizeof(int32_t));
  }
};

// What is known of a row in one call. Scores are those of screening; squares are squared distances in its frame.
template <class T>
struct Row {
  T upper, lower, rest;  // scores: bounds of the best centroid so far, lower bound of all others scored
  T threshold;           // upper bound of the best score among the centroids scored, for decide()
  T norm;                // upper bound of |x'|, 0 before anything was scored
  T next;                // square: lower bound of the others scored in the best one's group
  int32_t label, group;  // group is -1 while the best is a mover, or the own centroid and its group is not scored
  double own;            // D to the own centroid, in the frame's unit
};

// How far the centroids of one call moved, and which of them stand apart.
struct Moves {
  int64_t movers = 0;
  Buffer<float> shift;    // [k] at least
  Buffer<float> most;     // [groups] largest shift of those that are no movers
  Buffer<int32_t> part;   // [k] 0 for movers, else the group + 1
  Buffer<int32_t> tiles;  // [groups + 2] first tile of each part

  Moves(int64_t k, int64_t groups) : shift(k), most(groups), part(k), tiles(groups + 2) {}
};

// A panel scored against some centroids, per lane: the best and the others, as scores and as squares; and distances of all of
// them and of the others, at least.
template <class T>
struct Scored {
  T low[kPanel<T>], up[kPanel<T>], next[kPanel<T>], place[kPanel<T>], low_square[kPanel<T>], next_square[kPanel<T>];
  float distance[kPanel<T>], next_distance[kPanel<T>];
};

template <class X, class T, Form F>
struct TrackLane {
  static constexpr int P = kPanel<T>;
  const Packed<X, T>& p;
  int64_t size;  // rows looked at together, whole panels
  Buffer<T> scratch, panels;
  Buffer<Facts<T>> facts;  // [size / P] of the packed rows
  Buffer<Row<T>> rows;
  Buffer<int32_t> survivors, count;  // [groups][size] rows to score against a group, and how many
  Buffer<Scored<T>> movers;          // [size / P]
  Pending<T> pending;
  Counts counts;
  int64_t scored = 0;

  TrackLane(const Packed<X, T>& p_, int64_t groups, int64_t size_)
      : p(p_), size(size_), scratch(P * p_.words), panels(size_ * p_.words), facts(size_ / P), rows(size_),
        survivors(groups * size_), count(groups), movers(size_ / P), pending(size_ + kPendingRows) {}
};

// Relative error of a square put together from |x'|^2 and a score. The norm is an upper bound, too large by at most
// 2 (D + 16) u and the (D + 1) u / 2 of its sum, squared; a few roundings more are those of the formula.
template <class X, class T>
inline T looseness(const Packed<X, T>& p) {
  return T((double(p.d) + 24) * 6 * Limits<T>::unit);
}

template <class T>
inline float distance_down(T squared, double inverse_scale) {
  const double v = __builtin_sqrt(double(squared)) * inverse_scale * (1 - 0x1p-22);
  return v < kFar ? float(v) : kFar;
}
template <class T>
inline float distance_up(T squared, double inverse_scale) {
  return float(__builtin_sqrt(double(squared)) * inverse_scale * (1 + 0x1p-22) + 1e-44);
}

template <class X, class T, Form F>
inline void score_group(const Packed<X, T>& p, int64_t first, int64_t last, const T* panel,
                        const Facts<T>& facts, double inverse_scale, Scored<T>& out) {
  constexpr int L = kLanes<T>;
  State<T> state;
  state.clear();
  T largest = 0;
  for (int64_t t = first; t < last; ++t) {
    screen_tile<X, T, F>(p, p.tiles[t], panel, facts, state);
    largest = p.tiles[t].largest > largest ? p.tiles[t].largest : largest;
  }
  const Vec<T> zero = Vec<T>{};
  for (int v = 0; v < 2; ++v) {
    const Vec<T> l = load(state.lower + v * L), r = load(state.rest + v * L);
    store(out.up + v * L, load(state.upper + v * L));
    store(out.low + v * L, l);
    store(out.next + v * L, r);
    store(out.place + v * L, load(state.place + v * L));
    if constexpr (F == Form::difference) {
      store(out.low_square + v * L, vmax(l, zero));
      store(out.next_square + v * L, vmax(r, zero));
    } else {
      // |x - c|^2 = |x'|^2 + 2 t
      const Vec<T> x = load(facts.norm + v * L), x2 = x * x;
      const Vec<T> slack = splat(looseness(p)) * (x2 + splat(T(largest * largest)));
      store(out.low_square + v * L, vmax(x2 + splat(T(2)) * l - slack, zero));
      store(out.next_square + v * L, vmax(x2 + splat(T(2)) * r - slack, zero));
    }
  }
  for (int r = 0; r < kPanel<T>; ++r) {
    // Tiles have bounds of their own, so another may reach lower than the best.
    const T low = out.low_square[r], next = out.next_square[r];
    out.distance[r] = distance_down(low < next ? low : next, inverse_scale);
    out.next_distance[r] = distance_down(next, inverse_scale);
  }
}

// The own centroid as a score, from its exact distance.
template <class X, class T, Form F>
inline void score_own(const Packed<X, T>& p, Row<T>& row) {
  const double x2 = F == Form::difference ? 0 : double(row.norm) * double(row.norm);
  const double t = F == Form::difference ? row.own : 0.5 * (row.own - x2);
  const double slack = double(looseness(p)) * (row.own + x2) + 4 * Limits<T>::tiny;
  row.upper = T(t + slack);
  row.lower = T(t - slack);
}

// Takes lane r of a scored group, or of the movers with group -1, for one row.
template <class T>
inline void take_group(Row<T>& row, int32_t label, int32_t group, const Scored<T>& s, int64_t r) {
  const T low = s.low[r], up = s.up[r], next = s.next[r];
  row.threshold = up < row.threshold ? up : row.threshold;
  if (label == row.label) {
    // The own centroid, known already, seen again.
    row.upper = up < row.upper ? up : row.upper;
    row.rest = next < row.rest ? next : row.rest;
    row.next = s.next_square[r];
    row.group = group;
  } else if (up < row.upper) {
    T others = row.lower < next ? row.lower : next;
    row.rest = others < row.rest ? others : row.rest;
    row.upper = up;
    row.lower = low;
    row.next = s.next_square[r];
    row.label = label;
    row.group = group;
  } else {
    // Tiles have bounds of their own, so another may reach lower than the best.
    const T all = low < next ? low : next;
    row.rest = all < row.rest ? all : row.rest;
  }
}

// Some rows of a fit while their labels are found.
template <class X, class T, Form F>
struct TrackRows {
  static constexpr int P = kPanel<T>;
  static constexpr int32_t kSettled = -2;  // label of a row that needs no look
  const X* x;
  int64_t begin, n, d, groups;
  const Prepared<X>& prepared;
  Tracker<X>& tracker;
  const Moves& moves;
  TrackLane<X, T, F>& lane;
  const Packed<X, T>& p;
  int32_t* labels;
  double inverse;
  Scored<T> scored;

  TrackRows(const X* x_, int64_t begin_, int64_t end, const Prepared<X>& prepared_, Tracker<X>& tracker_,
            const Moves& moves_, TrackLane<X, T, F>& lane_, int32_t* labels_)
      : x(x_), begin(begin_), n(end - begin_), d(lane_.p.d), groups(tracker_.groups), prepared(prepared_),
        tracker(tracker_), moves(moves_), lane(lane_), p(lane_.p), labels(labels_),
        inverse(F == Form::difference ? 1.0 : 1.0 / lane_.p.scale) {}

  float* lower(int64_t i) { return tracker.lower.data() + (begin + i) * groups; }
  int64_t centroids_of(int64_t g) const {
    int64_t blocks = 0;
    for (int64_t t = moves.tiles[g + 1]; t < moves.tiles[g + 2]; ++t) blocks += p.tiles[t].blocks;
    return blocks * kBlock;
  }

  // What is known of a row's distance to movers: at least `nearest` for the group of the nearest, `others` elsewhere.
  struct Reach {
    int32_t label = -1, group = -1;
    float nearest = kFar, others = kFar;
    float to(int64_t g) const { return g == group ? nearest : others; }
  };
  // `own` is the centroid that bounds leave out.
  Reach movers_of(int64_t i, int32_t own) const {
    Reach reach;
    if (!moves.movers) return reach;
    const Scored<T>& s = lane.movers[i / P];
    reach.label = p.index[int64_t(s.place[i % P])];
    reach.group = tracker.group_of[reach.label];
    reach.nearest = s.distance[i % P];
    reach.others = s.next_distance[i % P];
    // Merged centroids may belong to other groups.
    if (p.has_copies) reach.others = reach.nearest;
    if (reach.label == own) reach.nearest = reach.others;
    return reach;
  }

  void score(int64_t part, const T* panel, const Facts<T>& facts, Scored<T>& out) {
    score_group<X, T, F>(p, moves.tiles[part], moves.tiles[part + 1], panel, facts, inverse, out);
  }

  void pack_all() {
    const X* rows[P];
    for (int64_t i = 0; i < n; i += P) {
      for (int64_t r = 0; r < P; ++r) rows[r] = x + (i + r < n ? begin + i + r : begin) * d;
      pack_panel(rows, p, lane.panels.data() + i * p.words, lane.facts[i / P]);
    }
  }

  // Lets bounds follow the shifts and lists what they do not rule out.
  void filter() {
    const double squared_scale = F == Form::difference ? 1.0 : p.scale * p.scale;
    const T inf = T(__builtin_inf());
    for (int64_t g = 0; g < groups; ++g) lane.count[g] = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = begin + i;
      const int32_t own = labels[row];
      float* bound = lower(i);
      float least = __builtin_inff();
      for (int64_t g = 0; g < groups; ++g) {
        float l = bound[g] - moves.most[g];
        l -= 0x1p-22f * __builtin_fabsf(l);
        bound[g] = l;
        least = l < least ? l : least;
      }
      const Reach reach = movers_of(i, own);
      least = reach.nearest < least ? reach.nearest : least;
      least = reach.others < least ? reach.others : least;
      float upper = (tracker.upper[row] + moves.shift[own]) * (1 + 0x1p-22f);
      tracker.upper[row] = upper;
      lane.rows[i].label = kSettled;
      if (!(upper * kMargin < least)) {
        const double exact = exact_distance(x + row * d, prepared.centroids.data() + int64_t(own) * d, d);
        upper = distance_up(exact, 1.0);
        tracker.upper[row] = upper;
        if (!(upper * kMargin < least)) {
          lane.rows[i] = {inf, inf, inf, inf, T(0), inf, own, -1, exact * squared_scale};
          if (moves.movers) {
            begin_row(lane.rows[i], lane.facts[i / P].norm[i % P]);
            take_group(lane.rows[i], reach.label, -1, lane.movers[i / P], i % P);
          }
          for (int64_t g = 0; g < groups; ++g)
            if (!(upper * kMargin < bound[g])) lane.survivors[g * lane.size + lane.count[g]++] = int32_t(i);
          continue;
        }
      }
      limit(i, reach);
    }
  }

  // Bounds cover movers from here on.
  void limit(int64_t i, const Reach& reach) {
    if (!moves.movers) return;
    float* bound = lower(i);
    for (int64_t g = 0; g < groups; ++g) bound[g] = reach.others < bound[g] ? reach.others : bound[g];
    if (reach.nearest < bound[reach.group]) bound[reach.group] = reach.nearest;
  }

  // A row that is scored for the first time knows its own centroid from D.
  void begin_row(Row<T>& row, T norm) {
    if (row.norm != 0) return;
    row.norm = F == Form::difference ? T(1) : norm > 0 ? norm : T(Limits<T>::tiny);
    if (tracker.started) score_own<X, T, F>(p, row);
  }

  void take(int64_t i, int64_t g, int64_t r, T norm) {
    Row<T>& row = lane.rows[i];
    float& bound = lower(i)[g];
    if (row.label == kSettled) {
      const float near = movers_of(i, labels[begin + i]).to(g);
      const float l = scored.distance[r] < near ? scored.distance[r] : near;
      bound = l > bound ? l : bound;
      return;
    }
    begin_row(row, norm);
    bound = scored.distance[r];
    take_group(row, p.index[int64_t(scored.place[r])], int32_t(g), scored, r);
  }

  void score_listed(int64_t g) {
    const int32_t* list = lane.survivors.data() + g * lane.size;
    const X* rows[P];
    alignas(64) Facts<T> facts;
    for (int64_t i = 0; i < lane.count[g]; i += P) {
      const int64_t m = lane.count[g] - i < P ? lane.count[g] - i : P;
      for (int64_t r = 0; r < P; ++r) rows[r] = x + (begin + list[i + (r < m ? r : 0)]) * d;
      pack_panel(rows, p, lane.scratch.data(), facts);
      score(g + 1, lane.scratch.data(), facts, scored);
      for (int64_t r = 0; r < m; ++r) take(list[i + r], g, r, facts.norm[r]);
    }
    lane.scored += lane.count[g];
  }

  void score_all(int64_t g) {
    for (int64_t i = 0; i < n; i += P) {
      score(g + 1, lane.panels.data() + i * p.words, lane.facts[i / P], scored);
      for (int64_t r = 0; r < P && i + r < n; ++r) take(i + r, g, r, lane.facts[i / P].norm[r]);
    }
    lane.scored += n;
  }

  // Cost in centroids scored of a group's list less that of scoring all rows, packed already.
  int64_t gain(int64_t g) const {
    const int64_t size = centroids_of(g);
    return lane.count[g] * (size + kPackCost) - n * size;
  }

  void score_groups() {
    bool packed = moves.movers;
    if (!packed) {
      int64_t sum = -n * kPackCost;
      for (int64_t g = 0; g < groups; ++g) sum += gain(g) > 0 ? gain(g) : 0;
      packed = sum >= 0;
      if (packed) pack_all();
    }
    for (int64_t g = 0; g < groups; ++g) {
      if (moves.tiles[g + 1] == moves.tiles[g + 2]) {
        // Nobody but movers in this group.
        for (int64_t i = 0; i < n; ++i)
          if (lane.rows[i].label != kSettled) lower(i)[g] = kFar;
      } else if (packed && gain(g) > 0) {
        score_all(g);
      } else {
        score_listed(g);
      }
    }
  }

  // Labels and bounds from what was scored; rows that are not certified wait for D.
  void settle() {
    for (int64_t i = 0; i < n; ++i) {
      const Row<T>& row = lane.rows[i];
      if (row.label == kSettled) continue;
      const int64_t at = begin + i;
      const int32_t before = labels[at];
      const bool settled = row.upper < row.rest;
      // D to the own centroid, which joins the others of its group if it has lost.
      const float left = tracker.upper[at] * (1 - 0x1p-20f);
      labels[at] = row.label;
      if (settled && row.norm != 0) {
        const double x2 = F == Form::difference ? 0 : double(row.norm) * double(row.norm);
        const double square = F == Form::difference ? double(row.upper) : x2 + 2 * double(row.upper);
        const double most = square + double(looseness(p)) * (x2 + __builtin_fabs(square));
        const float reach = distance_up(most > 0 ? most : 0, inverse);
        // What was measured exactly stays if it is tighter.
        if (row.label != before || !tracker.started || reach < tracker.upper[at]) tracker.upper[at] = reach;
      }
      if (settled && row.group >= 0) {
        const float others = distance_down(row.next, inverse);
        float& bound = lower(i)[row.group];
        // Several centroids may have been merged into one place: they are "others" at the same distance.
        bound = p.has_copies && bound < others ? bound : others;
      }
      limit(i, movers_of(i, settled ? row.label : -1));
      if (tracker.started && (row.label != before || !settled)) {
        float& bound = lower(i)[tracker.group_of[before]];
        bound = left < bound ? left : bound;
      }
      if (settled) continue;
      lane.pending.row[lane.pending.count] = at;
      lane.pending.threshold[lane.pending.count] = row.threshold;
      ++lane.pending.count;
      tracker.upper[at] = __builtin_inff();
    }
  }

  void run() {
    if (tracker.started) {
      if (moves.movers) {
        pack_all();
        for (int64_t i = 0; i < n; i += P)
          score(0, lane.panels.data() + i * p.words, lane.facts[i / P], lane.movers[i / P]);
      }
      filter();
    } else {
      const T inf = T(__builtin_inf());
      for (int64_t i = 0; i < n; ++i) lane.rows[i] = {inf, inf, inf, inf, T(0), inf, -1, -1, 0.0};
      // Nothing is ruled out, so every group is scored for all rows and needs no list.
      for (int64_t g = 0; g < groups; ++g) lane.count[g] = int32_t(n);
    }
    score_groups();
    settle();
  }
};

template <class X, class T, Form F>
void decide_pending(const X* x, const Prepared<X>& prepared, TrackLane<X, T, F>& lane, int32_t* labels) {
  const Counts c =
      decide<X, T, F>(x, prepared, lane.p, lane.pending, lane.scratch.data(), labels, nullptr, nullptr);
  lane.counts.rechecked += c.rechecked;
  lane.counts.compared += c.compared;
}

// Shifts since the last call, rounded up, and how many of the fastest centroids stand apart: a sample of rows tells
// for every number of them how much would be left to score.
template <class X>
void measure_moves(const Tracker<X>& tracker, const X* x, const X* centroids, const int32_t* labels, Moves& moves) {
  const int64_t n = tracker.n, k = tracker.k, d = tracker.d, G = tracker.groups;
  for (int64_t g = 0; g < G; ++g) moves.most[g] = 0;
  Buffer<int64_t> size(G);
  size.zero();
  for (int64_t j = 0; j < k; ++j) {
    moves.part[j] = tracker.group_of[j] + 1;
    ++size[tracker.group_of[j]];
    moves.shift[j] = 0;
    if (!tracker.started) continue;
    const double moved = exact_distance(centroids + j * d, tracker.previous.data() + j * d, d);
    moves.shift[j] = moved > 0 ? distance_up(moved, kBoundFactor) : 0;
  }
  if (!tracker.started) return;
  Buffer<int32_t> order(k);
  sort_by_shift(moves.shift.data(), k, order.data());
  Buffer<float> most(G);
  int64_t least_cost = INT64_MAX;
  const int64_t stride = n / kSampleRows + 1;
  Buffer<float> upper(n / stride + 1);
  for (int64_t i = 0, s = 0; i < n; i += stride, ++s)
    upper[s] = distance_up(exact_distance(x + i * d, centroids + int64_t(labels[i]) * d, d), 1.0) * kMargin;
  for (int step = kFewestMovers + 1; step >= kMostMovers; --step) {
    // Whole register blocks; the first candidate is none.
    const int64_t movers = step > kFewestMovers ? 0 : ((k >> step) + kBlock - 1) / kBlock * kBlock;
    if (movers >= k) break;
    for (int64_t g = 0; g < G; ++g) most[g] = 0;
    for (int64_t i = k; i-- > movers;) most[tracker.group_of[order[i]]] = moves.shift[order[i]];
    int64_t left = 0, rows = 0;
    for (int64_t i = 0, s = 0; i < n; i += stride, ++s, ++rows)
      for (int64_t g = 0; g < G; ++g)
        if (!(upper[s] < tracker.lower[i * G + g] - most[g])) left += size[g] + kPackCost;
    const int64_t most_left = rows * (k + kPackCost);
    const int64_t cost = (movers ? rows * (movers + kPackCost) : 0) + (left < most_left ? left : most_left);
    if (cost >= least_cost) continue;
    least_cost = cost;
    moves.movers = movers;
    for (int64_t g = 0; g < G; ++g) moves.most[g] = most[g];
  }
  for (int64_t i = 0; i < moves.movers; ++i) moves.part[order[i]] = 0;
}

template <class X, class T, Form F>
Counts track_all(const X* x, const Prepared<X>& prepared, const Packed<X, T>& p, Tracker<X>& tracker, Moves& moves,
                 int32_t* labels, int threads) {
  constexpr int64_t P = kPanel<T>;
  const int64_t n = tracker.n, k = tracker.k, G = tracker.groups;
  for (int64_t part = 0, t = 0; part <= G + 1; ++part) {
    while (t < p.n_tiles && p.tiles[t].group < part) ++t;
    moves.tiles[part] = int32_t(t);
  }
  Counts total;
  int64_t scored = 0;
  int64_t size = kTrackBytes / (p.words * int64_t(sizeof(T)));
  const int64_t share = n / (int64_t(threads) * 4);
  size = size < kTrackRows ? size : kTrackRows;
  size = size < share ? size : share;
  size = size < P ? P : size / P * P;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    TrackLane<X, T, F>* lane = new TrackLane<X, T, F>(p, G, size);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += size) {
      TrackRows<X, T, F>(x, i, i + size < n ? i + size : n, prepared, tracker, moves, *lane, labels).run();
      if (lane->pending.count >= kPendingRows) decide_pending(x, prepared, *lane, labels);
    }
    decide_pending(x, prepared, *lane, labels);
#pragma omp critical(gpukm_counts)
    {
      total.rechecked += lane->counts.rechecked;
      total.compared += lane->counts.compared;
      scored += lane->scored;
    }
    delete lane;
  }
  __builtin_memcpy(tracker.previous.data(), prepared.centroids.data(), size_t(k * tracker.d) * sizeof(X));
  tracker.started = true;
  tracker.scored = scored;
  tracker.pairs = n * G;
  // Where many rows stay unsettled bounds are blunt: the next rung has finer ones, and after the last plain tiles are cheaper.
  if (total.rechecked * 4 >= n) ++tracker.rung;
  return total;
}

template <class X>
void* track_start(int64_t n, int64_t d, int64_t k, int64_t groups, const int32_t* group_of) {
  return new Tracker<X>(n, d, k, groups, group_of);
}

template <class X>
void track_stop(void* tracker) {
  delete static_cast<Tracker<X>*>(tracker);
}

// Labels rows as assign() does; `labels` holds those of the previous call.
template <class X>
Counts track(const X* x, const X* centroids, Frame frame, void* tracker_, int32_t* labels, Progress* progress,
             int threads) {
  Tracker<X>& tracker = *static_cast<Tracker<X>*>(tracker_);
  Counts counts;
  if (tracker.rung > kWideRung) {
    Prepared<X> plain(centroids, tracker.k, tracker.d, frame);
    counts = assign_rows(x, tracker.n, plain, labels, nullptr, nullptr, threads);
  } else {
    Moves moves(tracker.k, tracker.groups);
    measure_moves(tracker, x, centroids, labels, moves);
    Prepared<X> prepared(centroids, tracker.k, tracker.d, frame, tracker.rung, moves.part.data());
    tracker.rung = prepared.first;
    if (prepared.first == kWideRung) {
      with_form<double>(prepared.wide->form, [&](auto is) {
        counts = track_all<X, double, decltype(is)::form>(x, prepared, *prepared.wide, tracker, moves, labels, threads);
      });
    } else {
      const Packed<X, float>& p = *prepared.narrow[prepared.first];
      with_form<float>(p.form, [&](auto is) {
        counts = track_all<X, float, decltype(is)::form>(x, prepared, p, tracker, moves, labels, threads);
      });
    }
  }
  *progress = {tracker.scored, tracker.pairs, tracker.rung <= kWideRung};
  return counts;
}
