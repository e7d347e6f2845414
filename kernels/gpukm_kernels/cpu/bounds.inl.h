// What tracking remembers between calls, how far centroids have moved, and what a call had best do.
//
// Bounds are kept against the paths of centroids, so that a row that is not looked at need not be written: a lower bound
// is stored plus the path that its group has made so far, an upper one less that of its centroid.

// Margin between bounds before a group is skipped: far above the errors of D and of float32 bounds.
constexpr float kMargin = 1.0f + 0x1p-20f;
// Covers the roundings of a bound that is stored against one path and read against another: five of 2^-24 at most.
constexpr float kSlack = 0x1p-21f;
// Stands for any larger distance: an infinity would not survive subtractions.
constexpr float kFar = 0x1p126f;
// Paths longer than this end tracking.
constexpr double kLongest = 0x1p120;
// Numbers of movers to choose from: k / 2^i for i from kFewestMovers down to kMostMovers, or none.
constexpr int kFewestMovers = 8, kMostMovers = 2;
// Calls that are let pass, at most, before bounds are thought of again.
constexpr int64_t kLongestWait = 4;

template <class X>
struct Tracker {
  int64_t n, d, k, groups;
  int64_t width;         // groups rounded up to whole vectors of eight
  bool started = false;  // bounds are there
  bool moving = false;   // `previous` is there
  int rung = kIntegerRung;   // past kWideRung once bounds are given up
  Buffer<int32_t> group_of;  // [k]
  Buffer<float> upper;       // [n] distance to the own centroid, at most
  Buffer<float> nearest;     // [n] distance to any other centroid, at least
  Buffer<float> lower;       // [n][width] distance to the other centroids of the group, at least
  Buffer<X> previous;        // [k][d]
  Buffer<double> own_path, group_path;  // [k], [width]
  double longest_path = 0;              // sum of the longest group's steps
  int64_t scored = 0, pairs = 0;        // (row, group) pairs of the last call: scored, and all
  int64_t movers = 0;                   // of the last call
  When boxes, heads;                    // whether a tree, and heads, are still to be thought of
  RowTree<X>* tree = nullptr;           // takes the place of bounds
  Heads<X>* head = nullptr;             // of the rows
  int64_t wait = 0, waited = 0;         // calls to go before bounds are thought of again, and how many it was last time
  int64_t followed = 0, wasted = 0;     // calls that followed the last bounds, and bounds left in vain

  Tracker(int64_t n_, int64_t d_, int64_t k_, int64_t groups_, const int32_t* group_of_, When boxes_, When heads_)
      : n(n_), d(d_), k(k_), groups(groups_), width((groups_ + 7) / 8 * 8), group_of(k_), upper(n_), nearest(n_),
        lower(n_ * width), previous(k_ * d_), own_path(k_), group_path(width), boxes(boxes_), heads(heads_) {
    __builtin_memcpy(group_of.data(), group_of_, size_t(k) * sizeof(int32_t));
    reset();
  }
  ~Tracker() {
    delete tree;
    delete head;
  }
  Tracker(const Tracker&) = delete;
  // Frees what bounds take.
  void forget() {
    upper.free();
    nearest.free();
    lower.free();
  }
  void reset() {
    own_path.zero();
    group_path.zero();
    longest_path = 0;
  }
};

template <class T>
inline float distance_up(T squared, double inverse_scale) {
  return float(__builtin_sqrt(double(squared)) * inverse_scale * (1 + 0x1p-22) + 1e-44);
}

// Paths as bounds are read or written against.
struct Paths {
  Buffer<float> own, group;  // [k], [width]
  float longest = 0;
  Paths(int64_t k, int64_t width) : own(k), group(width) {
    own.zero();
    group.zero();
  }
  template <class X>
  void follow(const Tracker<X>& tracker) {
    for (int64_t j = 0; j < tracker.k; ++j) own[j] = float(tracker.own_path[j]);
    for (int64_t g = 0; g < tracker.width; ++g) group[g] = float(tracker.group_path[g]);
    longest = float(tracker.longest_path);
  }
};

// For one bound, or eight.
template <class V>
inline V lower_bound(V stored, V path) {
  return stored - path - kSlack * (absolute(stored) + path);
}
template <class V>
inline V upper_bound(V stored, V path) {
  return stored + path + kSlack * (absolute(stored) + path);
}

// How far the centroids of one call moved, and which of them stand apart.
struct Moves {
  int64_t movers = 0;
  double cost = 0;        // expected of a row where bounds are used
  Buffer<float> shift;    // [k] at least
  Buffer<float> most;     // [groups] largest shift of those that are no movers
  Buffer<int32_t> order;  // [k] by descending shift
  Buffer<int32_t> part;   // [k] 0 for movers, else the group + 1
  Buffer<int32_t> tiles;  // [groups + 2] first tile of each part
  Buffer<int32_t> size;   // [groups] centroids
  Paths before, after;    // bounds are read against the one and written against the other

  template <class X>
  Moves(const Tracker<X>& tracker)
      : shift(tracker.k), most(tracker.groups), order(tracker.k), part(tracker.k), tiles(tracker.groups + 2),
        size(tracker.groups), before(tracker.k, tracker.width), after(tracker.k, tracker.width) {
    size.zero();
    for (int64_t j = 0; j < tracker.k; ++j) {
      part[j] = tracker.group_of[j] + 1;
      ++size[tracker.group_of[j]];
    }
  }
};

// Expected nanoseconds a row of following bounds, from those of a sample: `lower` [rows][groups] without the moves.
struct Estimate {
  double cost;
  int64_t movers;
};

inline Estimate estimate(const Costs& costs, const Moves& moves, const int32_t* group_of, int64_t k, int64_t groups,
                         const float* upper, const float* lower, int64_t rows, float* most) {
  const double all = costs.open + double(groups) * costs.take + double(k) * costs.score;
  Estimate best = {1e300, 0};
  Buffer<float> longest(groups);
  for (int step = kFewestMovers + 1; step >= kMostMovers; --step) {
    // Whole register blocks; the first candidate is none.
    const int64_t movers = step > kFewestMovers ? 0 : ((k >> step) + kBlock - 1) / kBlock * kBlock;
    if (movers >= k) break;
    for (int64_t g = 0; g < groups; ++g) longest[g] = 0;
    for (int64_t i = k; i-- > movers;) longest[group_of[moves.order[i]]] = moves.shift[moves.order[i]];
    float longest_of_all = 0;
    for (int64_t g = 0; g < groups; ++g) longest_of_all = longest[g] > longest_of_all ? longest[g] : longest_of_all;
    double cost = 0;
    for (int64_t s = 0; s < rows; ++s) {
      double row = 0;
      float nearest = kFar;
      for (int64_t g = 0; g < groups; ++g) {
        const float l = lower[s * groups + g];
        nearest = l < nearest ? l : nearest;
        if (!(upper[s] * kMargin < l - longest[g]))
          row += costs.pair + costs.take + double(moves.size[g]) * costs.score;
      }
      if (row > 0) row += costs.open;
      cost += row < all ? row : all;
      if (movers || !(upper[s] * kMargin < nearest - longest_of_all)) cost += costs.filter;
    }
    cost = cost / double(rows) + costs.look;
    // Movers have all rows converted, packed and taken.
    if (movers) cost += 0.5 * costs.open + costs.pair + costs.take + double(movers) * costs.score;
    if (cost >= best.cost) continue;
    best = {cost, movers};
    for (int64_t g = 0; g < groups; ++g) most[g] = longest[g];
  }
  return best;
}

// Measures how far centroids moved since the last call and decides, from a sample of rows, what to do and how many
// centroids stand apart as movers. `integers` says how rows are scored.
template <class X>
Plan plan_call(Tracker<X>& tracker, const X* x, const X* centroids, const int32_t* labels, bool integers,
               Moves& moves, int threads) {
  const int64_t n = tracker.n, k = tracker.k, d = tracker.d, G = tracker.groups;
  const Costs costs(d, G, integers);
  const double all = double(k) * costs.score, fill = all + double(G) * costs.leave;
  const double plain = tracker.head && tracker.head->cost < all ? tracker.head->cost : all;
  moves.cost = plain;
  // Nothing is known yet: bounds are left where they cost little beside the labels.
  if (!tracker.moving) return fill < 1.15 * all ? Plan::fill : Plan::plain;
  if (!tracker.started && tracker.wait > 0) {
    --tracker.wait;
    return Plan::plain;
  }
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(static)
    for (int64_t j = 0; j < k; ++j) {
      const double moved = exact_distance(centroids + j * d, tracker.previous.data() + j * d, d);
      moves.shift[j] = moved > 0 ? distance_up(moved, kBoundFactor) : 0;
    }
  }
  sort_by_shift(moves.shift.data(), k, moves.order.data());
  const int64_t rows = sample_size(n);
  Buffer<float> upper(rows), lower(rows * G), most(G);
  for (int64_t s = 0; s < rows; ++s) {
    const int64_t i = s * n / rows;
    upper[s] = distance_up(exact_distance(x + i * d, centroids + int64_t(labels[i]) * d, d), 1.0);
  }
  if (tracker.started) {
    for (int64_t s = 0; s < rows; ++s)
      for (int64_t g = 0; g < G; ++g)
        lower[s * G + g] = lower_bound(tracker.lower[s * n / rows * tracker.width + g], float(tracker.group_path[g]));
    const Estimate found = estimate(costs, moves, tracker.group_of.data(), k, G, upper.data(), lower.data(), rows,
                                    moves.most.data());
    if (found.cost < plain) {
      moves.movers = found.movers;
      moves.cost = found.cost;
      ++tracker.followed;
      return Plan::follow;
    }
    tracker.wasted += double(tracker.followed) < kRepaid / 2;
  }
  // Would bounds of the last call, were they there, have saved enough in this one?
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(dynamic)
    for (int64_t s = 0; s < rows; ++s) {
      const int64_t i = s * n / rows;
      for (int64_t g = 0; g < G; ++g) lower[s * G + g] = kFar;
      for (int64_t j = 0; j < k; ++j) {
        if (j == labels[i]) continue;
        const float v = distance_up(exact_distance(x + i * d, tracker.previous.data() + j * d, d), 1.0);
        float& l = lower[s * G + tracker.group_of[j]];
        l = v < l ? v : l;
      }
    }
  }
  const Estimate found =
      estimate(costs, moves, tracker.group_of.data(), k, G, upper.data(), lower.data(), rows, most.data());
  const double steady = found.cost + (fill - plain) * double(1 + tracker.wasted) / kRepaid;
  if (steady < 0.8 * plain) {
    moves.cost = steady;
    tracker.followed = tracker.waited = 0;
    return Plan::fill;
  }
  tracker.waited = tracker.waited < kLongestWait ? tracker.waited + 1 : kLongestWait;
  tracker.wait = tracker.waited - 1;
  return Plan::plain;
}

// Lets paths follow the moves of a call that keeps bounds; false where they grow too long to be compared. Where movers
// stand apart all bounds are written anew.
template <class X>
bool extend_paths(Tracker<X>& tracker, Moves& moves) {
  float longest = 0;
  // Movers included: nothing here may overflow.
  if (!(double(moves.shift[moves.order[0]]) < kLongest) || !(tracker.longest_path < kLongest)) return false;
  for (int64_t j = 0; j < tracker.k; ++j) tracker.own_path[j] += moves.shift[j];
  for (int64_t g = 0; g < tracker.groups; ++g) {
    tracker.group_path[g] += moves.most[g];
    longest = moves.most[g] > longest ? moves.most[g] : longest;
  }
  tracker.longest_path += longest;
  moves.before.follow(tracker);
  if (moves.movers)
    tracker.reset();
  else
    moves.after.follow(tracker);
  for (int64_t i = 0; i < moves.movers; ++i) moves.part[moves.order[i]] = 0;
  return true;
}
