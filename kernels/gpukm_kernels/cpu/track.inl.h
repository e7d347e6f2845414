// Assignment that remembers: group bounds in the manner of Yinyang k-means (Ding et al., ICML 2015), on certified
// intervals, so that labels stay exactly those of D.
//
// Centroids are partitioned once into groups of neighbours. A row keeps an upper bound of the distance to its own
// centroid and, for every group, a lower bound of the distance to the group's other centroids. When centroids move, bounds
// move by no more than their centroid's or group's largest shift (triangle inequality). A group whose lower bound stays
// above the row's upper bound cannot hold the nearest centroid; the rows that survive are gathered into dense panels and
// scored against the group alone. kernels/README.md has the roundings.

// Rows looked at together: many, so that the few survivors of a group still fill panels.
constexpr int64_t kTrackRows = 2048;
// Margin between bounds before a group is skipped: far above the errors of D and of float32 bounds.
constexpr float kMargin = 1.0f + 0x1p-20f;
// Stands for any larger distance: an infinity would not survive subtractions.
constexpr float kFar = 0x1p126f;

template <class X>
struct Tracker {
  int64_t n, d, k, groups;
  bool started = false, useful = true;
  Buffer<int32_t> group_of;  // [k]
  Buffer<float> upper;       // [n] distance to the own centroid, at most
  Buffer<float> lower;       // [n][groups] distance to the others of the group, at least
  Buffer<X> previous;        // [k][d]
  int64_t scored = 0, pairs = 0;  // (row, group) pairs of the last call: scored, and all

  Tracker(int64_t n_, int64_t d_, int64_t k_, int64_t groups_, const int32_t* group_of_)
      : n(n_), d(d_), k(k_), groups(groups_), group_of(k_), upper(n_), lower(n_ * groups_), previous(k_ * d_) {
    __builtin_memcpy(group_of.data(), group_of_, size_t(k) * sizeof(int32_t));
  }
};

// What is known of a row in one call. Scores are those of screening; squares are squared distances in its frame.
template <class T>
struct Row {
  T upper, lower, rest;  // scores: bounds of the best centroid so far, lower bound of all others scored
  T threshold;           // upper bound of the best score among the centroids scored, for decide()
  T norm;                // upper bound of |x'|, 0 before anything was scored
  T next;                // square: lower bound of the others in the best one's group
  int32_t label, group;  // group is -1 while the best is the own centroid and its group is not scored
  double own;            // D to the own centroid, in the frame's unit
};

template <class X, class T, bool Difference>
struct TrackLane {
  static constexpr int P = kPanel<T>;
  const Packed<X, T>& p;
  Buffer<T> panel, norms;
  Buffer<Row<T>> rows;
  Buffer<int32_t> survivors, count;  // [groups][kTrackRows], [groups]
  Pending<T> pending;
  Counts counts;
  int64_t scored = 0, seen = 0;

  TrackLane(const Packed<X, T>& p_, int64_t groups)
      : p(p_), panel(kTrackRows * p_.d), norms(kTrackRows), rows(kTrackRows), survivors(groups * kTrackRows),
        count(groups), pending(kTrackRows + kPendingRows) {}
};

// Relative error of a square put together from |x'|^2 and a score. The norm is an upper bound, too large by at most
// 2 (D + 16) u and the (D + 1) u / 2 of its sum, squared; a few roundings more are those of the formula.
template <class X, class T>
inline T looseness(const Packed<X, T>& p) {
  return T((double(p.d) + 24) * 6 * Limits<T>::unit);
}

// A panel scored against one group, per lane: the best centroid and the others, as scores and as squares.
template <class T>
struct Scored {
  T low[kPanel<T>], up[kPanel<T>], next[kPanel<T>], place[kPanel<T>], low_square[kPanel<T>], next_square[kPanel<T>];
};

template <class X, class T, bool Difference>
inline void score_group(const Packed<X, T>& p, int64_t first, int64_t last, const T* panel, const T* norms,
                        Scored<T>& out) {
  constexpr int L = kLanes<T>;
  State<T> state;
  state.clear();
  for (int64_t t = first; t < last; ++t) screen_tile<X, T, Difference>(p, p.tiles[t], panel, norms, state);
  // Norms ascend within a group, so its last tile has the largest.
  const T largest = p.tiles[last - 1].largest;
  const Vec<T> zero = Vec<T>{};
  for (int v = 0; v < 2; ++v) {
    const Vec<T> l = load(state.lower + v * L), r = load(state.rest + v * L);
    store(out.up + v * L, load(state.upper + v * L));
    store(out.low + v * L, l);
    store(out.next + v * L, r);
    store(out.place + v * L, load(state.place + v * L));
    if (Difference) {
      store(out.low_square + v * L, vmax(l, zero));
      store(out.next_square + v * L, vmax(r, zero));
    } else {
      // |x - c|^2 = |x'|^2 + 2 t
      const Vec<T> x = load(norms + v * L), x2 = x * x;
      const Vec<T> slack = splat(looseness(p)) * (x2 + splat(T(largest * largest)));
      store(out.low_square + v * L, vmax(x2 + splat(T(2)) * l - slack, zero));
      store(out.next_square + v * L, vmax(x2 + splat(T(2)) * r - slack, zero));
    }
  }
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

// The own centroid as a score, from its exact distance.
template <class X, class T, bool Difference>
inline void score_own(const Packed<X, T>& p, Row<T>& row) {
  const double x2 = Difference ? 0 : double(row.norm) * double(row.norm);
  const double t = Difference ? row.own : 0.5 * (row.own - x2);
  const double slack = double(looseness(p)) * (row.own + x2) + 4 * Limits<T>::tiny;
  row.upper = T(t + slack);
  row.lower = T(t - slack);
}

// Takes lane r of a scored group for one row.
template <class T>
inline void take_group(Row<T>& row, int32_t label, int32_t group, const Scored<T>& s, int64_t r) {
  const T low = s.low[r], up = s.up[r], next = s.next[r];
  row.threshold = up < row.threshold ? up : row.threshold;
  if (label == row.label) {
    // The own centroid, known already, seen again inside its group.
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
    row.rest = low < row.rest ? low : row.rest;
  }
}

template <class X, class T, bool Difference>
void track_rows(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Tracker<X>& tracker,
                const int32_t* group_tiles, const float* shift, const float* group_shift,
                TrackLane<X, T, Difference>& lane, int32_t* labels) {
  constexpr int P = kPanel<T>;
  const Packed<X, T>& p = lane.p;
  const int64_t G = tracker.groups, d = p.d, n = end - begin;
  const double inverse = Difference ? 1.0 : 1.0 / p.scale;
  const double squared_scale = Difference ? 1.0 : p.scale * p.scale;
  const T inf = T(__builtin_inf());
  int64_t pairs = 0;
  bool all = !tracker.started;
  for (int64_t g = 0; g < G; ++g) lane.count[g] = 0;
  if (!all) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = begin + i;
      float* lower = tracker.lower.data() + row * G;
      const int32_t own = labels[row];
      float least = __builtin_inff();
      for (int64_t g = 0; g < G; ++g) {
        float l = lower[g] - group_shift[g];
        l -= 0x1p-22f * __builtin_fabsf(l);
        lower[g] = l;
        least = l < least ? l : least;
      }
      float upper = (tracker.upper[row] + shift[own]) * (1 + 0x1p-22f);
      tracker.upper[row] = upper;
      lane.rows[i].label = -2;  // settled without a look
      if (upper * kMargin < least) continue;
      const double exact = exact_distance(x + row * d, prepared.centroids.data() + int64_t(own) * d, d);
      upper = distance_up(exact, 1.0);
      tracker.upper[row] = upper;
      if (upper * kMargin < least) continue;
      lane.rows[i] = {inf, inf, inf, inf, T(0), inf, own, -1, exact * squared_scale};
      for (int64_t g = 0; g < G; ++g)
        if (!(upper * kMargin < lower[g])) {
          lane.survivors[g * kTrackRows + lane.count[g]++] = int32_t(i);
          ++pairs;
        }
    }
    all = pairs * 2 > n * G;
  }
  alignas(64) Scored<T> scored;
  const X* rows[P];
  if (all) {
    // So many pairs are left that gathering costs more than scoring the rest: every row is packed once.
    const int64_t n_panels = (n + P - 1) / P;
    for (int64_t i = 0; i < n_panels; ++i) {
      for (int64_t r = 0; r < P; ++r) rows[r] = x + (i * P + r < n ? begin + i * P + r : begin) * d;
      pack_panel(rows, p, lane.panel.data() + i * P * d, lane.norms.data() + i * P);
    }
    for (int64_t i = 0; i < n; ++i) lane.rows[i] = {inf, inf, inf, inf, T(0), inf, -1, -1, 0.0};
    for (int64_t g = 0; g < G; ++g) {
      if (group_tiles[g] == group_tiles[g + 1]) {
        for (int64_t i = 0; i < n; ++i) tracker.lower[(begin + i) * G + g] = kFar;
        continue;
      }
      for (int64_t i = 0; i < n_panels; ++i) {
        score_group<X, T, Difference>(p, group_tiles[g], group_tiles[g + 1], lane.panel.data() + i * P * d,
                                      lane.norms.data() + i * P, scored);
        for (int64_t r = 0; r < P && i * P + r < n; ++r) {
          tracker.lower[(begin + i * P + r) * G + g] = distance_down(scored.low_square[r], inverse);
          Row<T>& row = lane.rows[i * P + r];
          row.norm = lane.norms[i * P + r];
          take_group(row, p.index[int64_t(scored.place[r])], int32_t(g), scored, r);
        }
      }
    }
    pairs = n * G;
  } else {
    for (int64_t g = 0; g < G; ++g) {
      const int32_t* list = lane.survivors.data() + g * kTrackRows;
      if (group_tiles[g] == group_tiles[g + 1]) continue;
      for (int64_t i = 0; i < lane.count[g]; i += P) {
        const int64_t m = lane.count[g] - i < P ? lane.count[g] - i : P;
        for (int64_t r = 0; r < P; ++r) rows[r] = x + (begin + list[i + (r < m ? r : 0)]) * d;
        pack_panel(rows, p, lane.panel.data(), lane.norms.data());
        score_group<X, T, Difference>(p, group_tiles[g], group_tiles[g + 1], lane.panel.data(), lane.norms.data(),
                                      scored);
        for (int64_t r = 0; r < m; ++r) {
          const int64_t local = list[i + r];
          tracker.lower[(begin + local) * G + g] = distance_down(scored.low_square[r], inverse);
          Row<T>& row = lane.rows[local];
          if (row.norm == 0) {
            row.norm = Difference ? T(1) : lane.norms[r] > 0 ? lane.norms[r] : T(Limits<T>::tiny);
            score_own<X, T, Difference>(p, row);
          }
          take_group(row, p.index[int64_t(scored.place[r])], int32_t(g), scored, r);
        }
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const Row<T>& row = lane.rows[i];
    if (row.label == -2) continue;
    const int64_t at = begin + i;
    float* lower = tracker.lower.data() + at * G;
    const int32_t before = labels[at];
    const bool settled = row.upper < row.rest;
    if (!all && (row.label != before || !settled)) {
      // The own centroid may have lost: then it is one of the others of its group from now on.
      const float reach = tracker.upper[at] * (1 - 0x1p-20f);
      const int32_t g = tracker.group_of[before];
      lower[g] = reach < lower[g] ? reach : lower[g];
    }
    labels[at] = row.label;
    if (settled) {
      if (row.group >= 0) {
        const double x2 = Difference ? 0 : double(row.norm) * double(row.norm);
        const double square = Difference ? double(row.upper) : x2 + 2 * double(row.upper);
        const double most = square + double(looseness(p)) * (x2 + __builtin_fabs(square));
        const float reach = distance_up(most > 0 ? most : 0, inverse);
        // What was measured exactly stays if it is tighter.
        if (row.label != before || all || reach < tracker.upper[at]) tracker.upper[at] = reach;
        float others = distance_down(row.next, inverse);
        // Several centroids may have been merged into one place: they are "others" at the same distance.
        lower[row.group] = p.has_copies ? (others < lower[row.group] ? others : lower[row.group]) : others;
      }
    } else {
      lane.pending.row[lane.pending.count] = at;
      lane.pending.threshold[lane.pending.count] = row.threshold;
      ++lane.pending.count;
      tracker.upper[at] = __builtin_inff();
    }
  }
  lane.scored += pairs;
  lane.seen += n;
  if (lane.pending.count >= kPendingRows) {
    const Counts c = decide<X, T, Difference>(x, prepared, p, lane.pending, lane.panel.data(), labels, nullptr, nullptr);
    lane.counts.rechecked += c.rechecked;
    lane.counts.compared += c.compared;
  }
}

template <class X, class T, bool Difference>
Counts track_all(const X* x, const Prepared<X>& prepared, const Packed<X, T>& p, Tracker<X>& tracker, int32_t* labels,
                 int threads) {
  const int64_t n = tracker.n, d = tracker.d, k = tracker.k, G = tracker.groups;
  Buffer<int32_t> group_tiles(G + 1);
  for (int64_t g = 0, t = 0; g <= G; ++g) {
    while (t < p.n_tiles && p.tiles[t].group < g) ++t;
    group_tiles[g] = int32_t(t);
  }
  Buffer<float> shift(k), group_shift(G);
  for (int64_t g = 0; g < G; ++g) group_shift[g] = 0;
  for (int64_t j = 0; tracker.started && j < k; ++j) {
    const double moved = exact_distance(prepared.centroids.data() + j * d, tracker.previous.data() + j * d, d);
    shift[j] = moved > 0 ? distance_up(moved, 1.0) : 0;
    float& most = group_shift[tracker.group_of[j]];
    most = shift[j] > most ? shift[j] : most;
  }
  Counts total;
  int64_t scored = 0;
  const int64_t share = (n / (int64_t(threads) * 4) + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
  int64_t step = kTrackRows < share ? kTrackRows : share < kPanel<T> ? kPanel<T> : share;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    TrackLane<X, T, Difference>* lane = new TrackLane<X, T, Difference>(p, G);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += step)
      track_rows<X, T, Difference>(x, i, i + step < n ? i + step : n, prepared, tracker, group_tiles.data(),
                                   shift.data(), group_shift.data(), *lane, labels);
    const Counts c = decide<X, T, Difference>(x, prepared, p, lane->pending, lane->panel.data(), labels, nullptr, nullptr);
#pragma omp critical(gpukm_counts)
    {
      total.rechecked += lane->counts.rechecked + c.rechecked;
      total.compared += lane->counts.compared + c.compared;
      scored += lane->scored;
    }
    delete lane;
  }
  __builtin_memcpy(tracker.previous.data(), prepared.centroids.data(), size_t(k * d) * sizeof(X));
  tracker.started = true;
  tracker.scored = scored;
  tracker.pairs = n * G;
  // Where many rows stay unsettled bounds are too blunt to skip anything, and plain tiles are cheaper.
  tracker.useful = total.rechecked * 4 < n;
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
  if (!tracker.useful) {
    Prepared<X> plain(centroids, tracker.k, tracker.d, frame);
    counts = assign_rows(x, tracker.n, plain, labels, nullptr, nullptr, threads);
  } else {
    Prepared<X> prepared(centroids, tracker.k, tracker.d, frame, tracker.group_of.data());
    if (!prepared.narrow)
      counts = track_all<X, double, true>(x, prepared, *prepared.wide, tracker, labels, threads);
    else if (prepared.narrow->difference)
      counts = track_all<X, float, true>(x, prepared, *prepared.narrow, tracker, labels, threads);
    else
      counts = track_all<X, float, false>(x, prepared, *prepared.narrow, tracker, labels, threads);
  }
  *progress = {tracker.scored, tracker.pairs, tracker.useful};
  return counts;
}
