// Assignment that remembers: group bounds in the manner of Yinyang k-means (Ding et al., ICML 2015), on certified
// intervals, so that labels stay exactly those of D.
//
// Centroids are partitioned once into groups of neighbours. A row keeps an upper bound of the distance to its own
// centroid and, for every group, a lower bound of the distance to the group's other centroids, and the lowest of these. When
// centroids move, bounds move by no more than their centroid's or group's largest shift (triangle inequality). A group whose
// lower bound stays above the row's upper bound cannot hold the nearest centroid.
//
// One centroid that jumps would spoil the bounds of its whole group. So in every call the fastest centroids, as many as a
// sample of rows says pay, stand apart as movers: all rows are scored against these, and bounds follow the others.
//
// Rows to score are converted once and gathered into dense panels, or where they are many all rows are laid in panels.
// kernels/README.md has the roundings, bounds.inl.h what is kept and when it pays.

// Rows looked at together: many, so that the few survivors of a group still fill panels.
constexpr int64_t kTrackRows = 2048;
constexpr int64_t kTrackBytes = 2 << 20;
// Rows that are looked at next are fetched so many ahead, and so many values of each.
constexpr int64_t kAhead = 8, kAheadValues = 64;

// What is known of an open row in one call. Scores are those of screening; squares are squared distances in its frame.
template <class T>
struct Row {
  int32_t at;            // row within the block
  T upper, lower, rest;  // scores: bounds of the best centroid so far, lower bound of all others scored
  T threshold;           // upper bound of the best score among the centroids scored, for decide()
  T norm;                // upper bound of |x'|, 0 before anything was scored
  T next;                // square: lower bound of the others scored in the best one's group
  int32_t label, group;  // group is -1 while the best is a mover, or the own centroid and its group is not scored
  double own;            // D to the own centroid, in the frame's unit
};

// A panel scored against some centroids, per lane: the best and the others, as scores and as squares; and distances of all of
// them and of the others, at least.
template <class T>
struct Scored {
  T low[kPanel<T>], up[kPanel<T>], next[kPanel<T>], place[kPanel<T>], low_square[kPanel<T>], next_square[kPanel<T>];
  float distance[kPanel<T>], next_distance[kPanel<T>];
};

// A panel of rows of which nothing is known, per lane: what Row says.
template <class T>
struct Unknown {
  T upper[kPanel<T>], lower[kPanel<T>], rest[kPanel<T>], next[kPanel<T>], place[kPanel<T>], group[kPanel<T>];
};

template <class X, class T, Form F>
struct TrackLane {
  static constexpr int P = kPanel<T>;
  const Packed<X, T>& p;
  int64_t size;  // rows looked at together, whole panels
  Buffer<T> room, panel, panels;
  Buffer<T> converted;                 // [size][words], unless rows are screened as stored
  Buffer<Fact<T>> fact;                // [size]; a norm of 0 marks a row not converted yet
  Buffer<Facts<T>> facts;              // [size / P] of the panels
  Buffer<Row<T>> rows;                 // [size] open ones
  Buffer<int32_t> open, place;         // [size] rows to look at; a row's place in `rows`, or -1
  Buffer<int32_t> survivors, count;    // [groups][size] rows to score against a group, and how many
  Buffer<float> bounds;                // [width] of one row
  Buffer<Scored<T>> movers;            // [size / P]
  Buffer<Unknown<T>> unknown;          // [size / P]
  Pending<T> pending;
  Counts counts;
  int64_t scored = 0;

  TrackLane(const Packed<X, T>& p_, const Tracker<X>& tracker, int64_t size_)
      : p(p_), size(size_), room(P * p_.words), panel(P * p_.words), panels(size_ * p_.words),
        converted(kAsStored<X, T, F> ? 1 : size_ * p_.words), fact(size_), facts(size_ / P), rows(size_), open(size_),
        place(size_), survivors(tracker.groups * size_), count(tracker.groups), bounds(tracker.width),
        movers(size_ / P), unknown(size_ / P), pending(size_ + kPendingRows) {}
};

// Relative error of a square put together from |x'|^2 and a score. The norm is an upper bound, too large by at most
// 2 (D + 16) u and the (D + 1) u / 2 of its sum, squared; a few roundings more are those of the formula.
template <class X, class T>
inline T looseness(const Packed<X, T>& p) {
  return T((double(p.d) + 24) * 6 * Limits<T>::unit);
}

// An infinite square has overflowed, or there is nobody to measure: it tells no more than the largest one does.
template <class T>
inline float distance_down(T squared, double inverse_scale) {
  const T finite = squared < T(Limits<T>::most) ? squared : T(Limits<T>::most);
  const double root = sizeof(T) == sizeof(float) ? double(__builtin_sqrtf(float(finite))) : __builtin_sqrt(double(finite));
  const double v = root * (inverse_scale * (1 - 0x1p-20));
  return v < kFar ? float(v) : kFar;
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
  // Tiles have bounds of their own, so another may reach lower than the best.
  for (int r = 0; r < kPanel<T>; ++r)
    out.distance[r] = distance_down(out.low_square[r] < out.next_square[r] ? out.low_square[r] : out.next_square[r], inverse_scale);
  for (int r = 0; r < kPanel<T>; ++r) out.next_distance[r] = distance_down(out.next_square[r], inverse_scale);
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
  const X* x;
  int64_t begin, n, d, groups, width;
  const Prepared<X>& prepared;
  Tracker<X>& tracker;
  const Moves& moves;
  TrackLane<X, T, F>& lane;
  const Packed<X, T>& p;
  const Costs& costs;
  int32_t* labels;
  double inverse;
  int64_t n_open = 0;  // in lane.rows
  Scored<T> scored;

  TrackRows(const X* x_, int64_t begin_, int64_t end, const Prepared<X>& prepared_, Tracker<X>& tracker_,
            const Moves& moves_, TrackLane<X, T, F>& lane_, const Costs& costs_, int32_t* labels_)
      : x(x_), begin(begin_), n(end - begin_), d(lane_.p.d), groups(tracker_.groups), width(tracker_.width),
        prepared(prepared_), tracker(tracker_), moves(moves_), lane(lane_), p(lane_.p), costs(costs_), labels(labels_),
        inverse(F == Form::difference ? 1.0 : 1.0 / lane_.p.scale) {}

  // Bounds, written against the paths after this call.
  float* stored(int64_t i) { return tracker.lower.data() + (begin + i) * width; }
  float bound(int64_t i, int64_t g) { return lower_bound(stored(i)[g], moves.after.group[g]); }
  void put_bound(int64_t i, int64_t g, float l) { stored(i)[g] = l + moves.after.group[g]; }
  void limit_bound(int64_t i, int64_t g, float l) {
    if (l < bound(i, g)) put_bound(i, g, l);
  }
  void put_upper(int64_t i, float u) { tracker.upper[begin + i] = u - moves.after.own[labels[begin + i]]; }
  void put_nearest(int64_t i, float l) { tracker.nearest[begin + i] = l + moves.after.longest; }

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

  // A row as screening takes it, converted when it is first asked for.
  const T* words(int64_t i) {
    if constexpr (kAsStored<X, T, F>) {
      return x + (begin + i) * d;
    } else {
      T* out = lane.converted.data() + i * p.words;
      if (lane.fact[i].norm == 0) lane.fact[i] = convert_row<F>(x + (begin + i) * d, p, out);
      return out;
    }
  }

  void score(int64_t part, const T* panel, const Facts<T>& facts, Scored<T>& out) {
    score_group<X, T, F>(p, moves.tiles[part], moves.tiles[part + 1], panel, facts, inverse, out);
  }

  // Scores rows of which nothing is known against every group, and leaves their bounds: as score_all, begin_row and take
  // do row by row, in vectors; and so many groups at a time that a cache holds them.
  void score_unknown() {
    const T inf = T(__builtin_inf());
    for (int64_t i = 0; i < n; i += P)
      for (int64_t r = 0; r < P; ++r) {
        Unknown<T>& u = lane.unknown[i / P];
        u.upper[r] = u.lower[r] = u.rest[r] = u.next[r] = inf;
        u.place[r] = u.group[r] = 0;
      }
    for (int64_t first = 0, last; first < groups; first = last) {
      last = first;
      int64_t held = 0;
      do {
        for (int32_t t = moves.tiles[last + 1]; t < moves.tiles[last + 2]; ++t) held += p.tiles[t].blocks;
        ++last;
      } while (last < groups && held * kBlock * p.words * int64_t(sizeof(T)) < kTileBytes / 2);
      for (int64_t i = 0; i < n; i += P) score_unknown(i, first, last);
    }
    for (int64_t i = 0; i < n; ++i) {
      const Unknown<T>& u = lane.unknown[i / P];
      const T norm = lane.facts[i / P].norm[i % P];
      Row<T>& row = lane.rows[i];
      row.upper = row.threshold = u.upper[i % P], row.lower = u.lower[i % P], row.rest = u.rest[i % P];
      row.next = u.next[i % P], row.label = p.index[int64_t(u.place[i % P])], row.group = int32_t(u.group[i % P]);
      row.norm = F == Form::difference ? T(1) : norm > 0 ? norm : T(Limits<T>::tiny);
    }
    lane.scored += n * groups;
  }

  // One panel against some groups.
  void score_unknown(int64_t i, int64_t first, int64_t last) {
    constexpr int L = kLanes<T>;
    Unknown<T>& u = lane.unknown[i / P];
    for (int64_t g = first; g < last; ++g) {
      score(g + 1, lane.panels.data() + i * p.words, lane.facts[i / P], scored);
      for (int at = 0; at < P; at += L) {
        const Vec<T> up = load(scored.up + at), low = load(scored.low + at), after = load(scored.next + at);
        const Vec<T> upper = load(u.upper + at), lower = load(u.lower + at);
        // The loser's lowest joins the rest: of a new best that is what was best before and the others of its own group.
        const Vec<T> loser = less_select(up, upper, vmin(lower, after), vmin(low, after));
        store(u.rest + at, vmin(load(u.rest + at), loser));
        store(u.lower + at, less_select(up, upper, low, lower));
        store(u.next + at, less_select(up, upper, load(scored.next_square + at), load(u.next + at)));
        store(u.place + at, less_select(up, upper, load(scored.place + at), load(u.place + at)));
        store(u.group + at, less_select(up, upper, splat(T(g)), load(u.group + at)));
        store(u.upper + at, vmin(up, upper));
      }
      for (int64_t r = 0; r < P && i + r < n; ++r) stored(i + r)[g] = scored.distance[r];
    }
  }

  void pack_all() {
    const T* rows[P];
    for (int64_t i = 0; i < n; i += P) {
      for (int64_t r = 0; r < P; ++r) {
        const int64_t at = i + r < n ? i + r : 0;
        rows[r] = words(at);
        lane.facts[i / P].put(r, lane.fact[at]);
      }
      interleave(rows, p.words, lane.panels.data() + i * p.words);
    }
  }

  // Lists the rows that the lowest of their bounds does not settle.
  int64_t look() {
    int64_t listed = 0;
    const float* own = moves.before.own.data();
    const float path = moves.before.longest;
    auto one = [&](int64_t i) {
      const float u = upper_bound(tracker.upper[begin + i], own[labels[begin + i]]);
      if (!(u * kMargin < lower_bound(tracker.nearest[begin + i], path))) lane.open[listed++] = int32_t(i);
    };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const Lanes8f s = load8f(tracker.upper.data() + begin + i), l = load8f(tracker.nearest.data() + begin + i);
      Lanes8f o;
      for (int r = 0; r < 8; ++r) o[r] = own[labels[begin + i + r]];
      if (!all_of(upper_bound(s, o) * kMargin < lower_bound(l, path - Lanes8f{})))
        for (int r = 0; r < 8; ++r) one(i + r);
    }
    for (; i < n; ++i) one(i);
    return listed;
  }

  // Opens those of the listed rows that their bounds do not settle, and lists the groups to score them against.
  void filter(int64_t listed) {
    const double squared_scale = F == Form::difference ? 1.0 : p.scale * p.scale;
    const T inf = T(__builtin_inf());
    float* bounds = lane.bounds.data();
    for (int64_t a = 0; a < listed; ++a) {
      const int64_t i = moves.movers ? a : lane.open[a];
      const int64_t row = begin + i;
      // Few rows among many: they are far from each other in memory.
      if (!moves.movers && a + kAhead < listed) {
        const int64_t later = lane.open[a + kAhead];
        __builtin_prefetch(stored(later));
        for (int64_t f = 0; f < d && f < kAheadValues; f += 64 / int64_t(sizeof(X))) __builtin_prefetch(x + (begin + later) * d + f);
      }
      const int32_t own = labels[row];
      Lanes8f lowest = kFar - Lanes8f{};
      for (int64_t g = 0; g < width; g += 8) {
        const Lanes8f l = lower_bound(load8f(stored(i) + g), load8f(moves.before.group.data() + g));
        store8f(bounds + g, l);
        lowest = l < lowest ? l : lowest;
      }
      float least = lowest[0];
      for (int r = 1; r < 8; ++r) least = lowest[r] < least ? lowest[r] : least;
      const Reach reach = movers_of(i, own);
      least = reach.nearest < least ? reach.nearest : least;
      least = reach.others < least ? reach.others : least;
      float upper = upper_bound(tracker.upper[row], moves.before.own[own]);
      double exact = 0;
      bool settled = upper * kMargin < least;
      if (!settled) {
        exact = exact_distance(x + row * d, prepared.centroids.data() + int64_t(own) * d, d);
        upper = distance_up(exact, 1.0);
        settled = upper * kMargin < least;
      }
      put_upper(i, upper);
      put_nearest(i, least);
      if (moves.movers)
        for (int64_t g = 0; g < groups; ++g) {
          const float l = reach.to(g);
          put_bound(i, g, settled && l < bounds[g] ? l : bounds[g]);
        }
      if (settled) continue;
      Row<T>& open = lane.rows[n_open];
      open = {int32_t(i), inf, inf, inf, inf, T(0), inf, own, -1, exact * squared_scale};
      lane.place[i] = int32_t(n_open++);
      if (moves.movers) {
        begin_row(open, lane.fact[i].norm);
        take_group(open, reach.label, -1, lane.movers[i / P], i % P);
      }
      for (int64_t g = 0; g < groups; ++g)
        if (!(upper * kMargin < bounds[g])) lane.survivors[g * lane.size + lane.count[g]++] = int32_t(i);
    }
  }

  // A row that is scored for the first time knows its own centroid from D.
  void begin_row(Row<T>& row, T norm) {
    if (row.norm != 0) return;
    row.norm = F == Form::difference ? T(1) : norm > 0 ? norm : T(Limits<T>::tiny);
    score_own<X, T, F>(p, row);
  }

  void take(int64_t i, int64_t g, int64_t r, T norm) {
    if (lane.place[i] < 0) {
      const float near = movers_of(i, labels[begin + i]).to(g);
      const float l = scored.distance[r] < near ? scored.distance[r] : near;
      if (l > bound(i, g)) put_bound(i, g, l);
      return;
    }
    Row<T>& row = lane.rows[lane.place[i]];
    begin_row(row, norm);
    put_bound(i, g, scored.distance[r]);
    take_group(row, p.index[int64_t(scored.place[r])], int32_t(g), scored, r);
  }

  void score_listed(int64_t g) {
    const int32_t* list = lane.survivors.data() + g * lane.size;
    const T* rows[P];
    alignas(64) Facts<T> facts;
    for (int64_t i = 0; i < lane.count[g]; i += P) {
      const int64_t m = lane.count[g] - i < P ? lane.count[g] - i : P;
      for (int64_t r = 0; r < P; ++r) {
        const int64_t at = list[i + (r < m ? r : 0)];
        rows[r] = words(at);
        facts.put(r, lane.fact[at]);
      }
      interleave(rows, p.words, lane.panel.data());
      score(g + 1, lane.panel.data(), facts, scored);
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

  // Cost of a group's list less that of scoring all rows, laid in panels already.
  double gain(int64_t g) const {
    const double score = double(moves.size[g]) * costs.score + costs.take;
    return double(lane.count[g]) * (score + costs.pair) - double(n) * score;
  }

  void score_groups(bool packed) {
    if (!packed) {
      double sum = -double(n) * costs.pair - double(n - n_open) * costs.open / 2;
      for (int64_t g = 0; g < groups; ++g) sum += gain(g) > 0 ? gain(g) : 0;
      packed = sum >= 0;
      if (packed) pack_all();
    }
    for (int64_t g = 0; g < groups; ++g) {
      if (moves.tiles[g + 1] == moves.tiles[g + 2]) {
        // Nobody but movers in this group.
        for (int64_t a = 0; a < n_open; ++a) put_bound(lane.rows[a].at, g, kFar);
      } else if (packed && gain(g) > 0) {
        score_all(g);
      } else {
        score_listed(g);
      }
    }
  }

  // Labels and bounds from what was scored; rows that are not certified wait for D.
  void settle() {
    for (int64_t a = 0; a < n_open; ++a) {
      const Row<T>& row = lane.rows[a];
      const int64_t i = row.at, at = begin + i;
      const int32_t before = labels[at];
      const bool settled = row.upper < row.rest;
      const float upper = tracker.started ? upper_bound(tracker.upper[at], moves.after.own[before]) : __builtin_inff();
      labels[at] = row.label;
      float now = upper;
      if (settled && row.norm != 0) {
        const double x2 = F == Form::difference ? 0 : double(row.norm) * double(row.norm);
        const double square = F == Form::difference ? double(row.upper) : x2 + 2 * double(row.upper);
        const double most = square + double(looseness(p)) * (x2 + __builtin_fabs(square));
        const float reach = distance_up(most > 0 ? most : 0, inverse);
        // What was measured exactly stays if it is tighter.
        if (row.label != before || !tracker.started || reach < upper) now = reach;
      }
      if (settled && row.group >= 0) {
        const float others = distance_down(row.next, inverse);
        // Several centroids may have been merged into one place: they are "others" at the same distance.
        if (!p.has_copies || others < bound(i, row.group)) put_bound(i, row.group, others);
      }
      const Reach reach = movers_of(i, settled ? row.label : -1);
      if (moves.movers)
        for (int64_t g = 0; g < groups; ++g) limit_bound(i, g, reach.to(g));
      // The old centroid joins the others of its group if it has lost; its distance was measured by D.
      if (tracker.started && (row.label != before || !settled))
        limit_bound(i, tracker.group_of[before], distance_down(row.own, inverse));
      float least = kFar;
      for (int64_t g = 0; g < groups; ++g) least = bound(i, g) < least ? bound(i, g) : least;
      put_nearest(i, least);
      if (settled) {
        put_upper(i, now);
        continue;
      }
      // Its label is not known yet, and may not even be a guess.
      tracker.upper[at] = __builtin_inff();
      lane.pending.row[lane.pending.count] = at;
      lane.pending.threshold[lane.pending.count] = row.threshold;
      ++lane.pending.count;
    }
  }

  void run() {
    for (int64_t i = 0; i < n; ++i) lane.place[i] = -1;
    if constexpr (!kAsStored<X, T, F>)
      for (int64_t i = 0; i < n; ++i) lane.fact[i].norm = 0;
    for (int64_t g = 0; g < groups; ++g) lane.count[g] = 0;
    if (tracker.started) {
      if (moves.movers) {
        pack_all();
        for (int64_t i = 0; i < n; i += P)
          score(0, lane.panels.data() + i * p.words, lane.facts[i / P], lane.movers[i / P]);
      }
      filter(moves.movers ? n : look());
    } else {
      const T inf = T(__builtin_inf());
      for (int64_t i = 0; i < n; ++i) {
        lane.rows[i] = {int32_t(i), inf, inf, inf, inf, T(0), inf, -1, -1, 0.0};
        lane.place[i] = int32_t(i);
        for (int64_t g = groups; g < width; ++g) stored(i)[g] = kFar;
      }
      n_open = n;
      pack_all();
      score_unknown();
    }
    if (n_open && tracker.started) score_groups(moves.movers > 0);
    settle();
  }
};

template <class X, class T, Form F>
void decide_pending(const X* x, const Prepared<X>& prepared, TrackLane<X, T, F>& lane, int32_t* labels) {
  const Counts c = decide<X, T, F>(x, prepared, lane.p, lane.pending, lane.panel.data(), lane.room.data(), labels,
                                   nullptr, nullptr);
  lane.counts.rechecked += c.rechecked;
  lane.counts.compared += c.compared;
}

template <class X, class T, Form F>
Counts track_all(const X* x, const Prepared<X>& prepared, const Packed<X, T>& p, Tracker<X>& tracker, Moves& moves,
                 int32_t* labels, int threads) {
  constexpr int64_t P = kPanel<T>;
  const int64_t n = tracker.n, G = tracker.groups;
  for (int64_t part = 0, t = 0; part <= G + 1; ++part) {
    while (t < p.n_tiles && p.tiles[t].group < part) ++t;
    moves.tiles[part] = int32_t(t);
  }
  // Movers are in no group's tiles.
  for (int64_t i = 0; i < moves.movers; ++i) --moves.size[tracker.group_of[moves.order[i]]];
  const Costs costs(tracker.d, G, F == Form::integer);
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
    TrackLane<X, T, F>* lane = new TrackLane<X, T, F>(p, tracker, size);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += size) {
      TrackRows<X, T, F>(x, i, i + size < n ? i + size : n, prepared, tracker, moves, *lane, costs, labels).run();
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
  tracker.started = true;
  tracker.scored = scored;
  // Where many rows stay unsettled bounds are blunt: the next rung has finer ones, and after the last plain tiles are
  // cheaper.
  if (total.rechecked * 4 >= n) ++tracker.rung;
  return total;
}

template <class X>
void* track_start(int64_t n, int64_t d, int64_t k, int64_t groups, const int32_t* group_of, When boxes, When heads) {
  return new Tracker<X>(n, d, k, groups, group_of, boxes, heads);
}

template <class X>
void track_stop(void* tracker) {
  delete static_cast<Tracker<X>*>(tracker);
}

template <class X>
Counts track_bounds(const X* x, const X* centroids, Frame frame, Tracker<X>& tracker, Moves& moves, int32_t* labels,
                    int threads) {
  Counts counts;
  Prepared<X> prepared(centroids, tracker.k, tracker.d, frame, threads, tracker.rung, moves.part.data());
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
  return counts;
}

// Sorts rows into boxes if that pays, which is asked once, when centroids have moved away from where they started.
template <class X>
void think_of_boxes(Tracker<X>& tracker, const X* x, const X* centroids, const int32_t* labels, bool integers,
                    int threads) {
  if (tracker.boxes == When::never || !tracker.moving) return;
  const bool able = tracker.d <= kTreeFeatures && tracker.n < INT32_MAX;
  const bool always = tracker.boxes == When::always;
  tracker.boxes = When::never;
  if (!able || !(always || tracker.n >= kTreeRows)) return;
  const double plain = double(tracker.k) * Costs(tracker.d, tracker.groups, integers).score;
  if (!always && !tree_pays(x, tracker.n, tracker.d, centroids, tracker.k, plain, threads)) return;
  tracker.forget();
  tracker.tree = make_tree(x, tracker.n, tracker.d, tracker.k, labels, threads);
}

// Labels rows as assign() does; `before` holds the labels of the previous call.
template <class X>
Counts track(const X* x, const X* centroids, Frame frame, void* tracker_, const int32_t* before, int32_t* labels,
             Progress* progress, int threads) {
  Tracker<X>& tracker = *static_cast<Tracker<X>*>(tracker_);
  FloatMode mode;
  if (before != labels) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < tracker.n; ++i) labels[i] = before[i];
  }
  Counts counts;
  Plan plan = Plan::plain;
  const bool integers = Prepared<X>::first_rung(tracker.d, tracker.k, frame.radius, tracker.rung) == kIntegerRung;
  think_of_boxes(tracker, x, centroids, labels, integers, threads);
  if (tracker.tree) {
    const TreeWork work = follow_tree(*tracker.tree, centroids, tracker.previous.data(), tracker.k, labels, threads);
    __builtin_memcpy(tracker.previous.data(), centroids, size_t(tracker.k * tracker.d) * sizeof(X));
    *progress = {work.scored, tracker.n * tracker.k, 0, Plan::boxes};
    return counts;
  }
  const Costs costs(tracker.d, tracker.groups, integers);
  const double all = double(tracker.k) * costs.score;
  if (tracker.head && !tracker.head->fits(frame)) {
    delete tracker.head;
    tracker.head = nullptr;
  }
  const bool tracked = tracker.groups > 0 && tracker.rung <= kWideRung;
  const bool forced = tracker.heads == When::always;
  if (tracked && !(tracker.head && forced)) {
    Moves moves(tracker);
    plan = plan_call(tracker, x, centroids, labels, integers, moves, threads);
    if (tracker.moving && tracker.heads == When::paying) {
      tracker.heads = When::never;
      tracker.head = think_of_heads(x, tracker.n, tracker.d, centroids, tracker.k, frame, labels, costs, moves.cost, false, threads);
      if (tracker.head) plan = Plan::plain;
    }
    if (plan == Plan::follow && !extend_paths(tracker, moves)) plan = Plan::plain;
    if (plan != Plan::follow) {
      tracker.started = false;
      tracker.reset();
    }
    if (plan != Plan::plain) counts = track_bounds(x, centroids, frame, tracker, moves, labels, threads);
    tracker.movers = plan == Plan::plain ? 0 : moves.movers;
  }
  if (forced && !tracker.head && tracker.moving)
    tracker.head = think_of_heads(x, tracker.n, tracker.d, centroids, tracker.k, frame, labels, costs, all, true, threads);
  tracker.pairs = tracker.n * (tracker.groups > 0 ? tracker.groups : 1);
  if (tracker.head && (forced || plan == Plan::plain)) {
    tracker.started = false;
    tracker.movers = 0;
    if (assign_heads(x, centroids, tracker.k, frame, *tracker.head, costs, labels, &counts, &tracker.scored, threads)) {
      plan = Plan::heads;
      tracker.pairs = tracker.n * tracker.k;
    } else {
      plan = Plan::plain;
    }
    // Where they did not help they are given up.
    if (!forced && (plan == Plan::plain || tracker.head->cost >= all)) {
      delete tracker.head;
      tracker.head = nullptr;
    }
  }
  if (plan == Plan::plain) {
    Prepared<X> plain(centroids, tracker.k, tracker.d, frame, threads);
    counts = assign_rows(x, tracker.n, plain, labels, nullptr, nullptr, threads);
    tracker.scored = tracker.pairs;
  }
  __builtin_memcpy(tracker.previous.data(), centroids, size_t(tracker.k * tracker.d) * sizeof(X));
  tracker.moving = true;
  *progress = {tracker.scored, tracker.pairs, tracker.movers, plan};
  return counts;
}
