// Iterations of a small problem: gpukm.core.lloyd.iterate, to the bit.

template <class X>
class Lloyd {
 public:
  Lloyd(const Batch<X>& b, const Rows<X>& rows)
      : b_(b), rows_(rows), d_(b.d), k_(b.k), integers_(rows, b.k), tiles_(b.k, b.d), centers_(k_ * d_), next_(k_ * d_),
        labels_(rows.most), distance_(rows.most), sums_(k_ * d_), weights_(k_),
        tree_(power_of_two(k_ > d_ ? k_ : d_)), origin_(d_), history_(b.capacity * 4), stats_(d_, k_), filled_(d_, k_) {
    origin_.zero();
  }

  // Takes in the rows of a problem.
  void take() { suited_ = integers_.take(); }
  X* centers() { return centers_.data(); }

  // From the starting centers() to the final ones, and their labels; false where the loop was told to stop.
  template <class GoOn>
  bool iterate(GoOn go_on) {
    stats_.clear();
    double tolerance = 0;
    rechecked_ = 0;
    in_integers_ = suited_;
    for (iterations_ = 1;; ++iterations_) {
      if (!go_on()) return false;
      const int64_t moved = iterations_ == 1 ? assign<true>() : assign<false>();
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
      if (!same) assign<false>();
      weigh(stats_);
      return true;
    }
  }

  // The exact inertia; false where it is not finite.
  GPUKM_APART bool total(double* inertia) {
    for (int64_t i = 0; i < rows_.n; ++i) distance_[i] = rows_.weight[i] * own_distance(i);
    *inertia = exact_total(distance_.data(), rows_.n);
    return *inertia == *inertia;
  }

  // Writes the fit down.
  void keep(int64_t problem, int64_t first, int64_t start, double inertia) {
    __builtin_memcpy(b_.centroids + problem * k_ * d_, centers_.data(), size_t(k_ * d_) * sizeof(X));
    __builtin_memcpy(b_.labels + first, labels_.data(), size_t(rows_.n) * sizeof(int32_t));
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

 private:
  double own_distance(int64_t i) const {
    return exact_distance(rows_.x + i * d_, centers_.data() + int64_t(labels_[i]) * d_, d_);
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
  template <bool First>
  GPUKM_APART int64_t assign() {
    constexpr int64_t P = kPanelRows<X>, M = kMostPanelRows;
    const Margins<X> margins(d_);
    // The few rows that integers leave open are not worth another screening.
    const int64_t most_open = rows_.n / 16 + 8;
    bool packed = false;
    if (in_integers_) in_integers_ = integers_.pack(centers_.data());
    int64_t moved = 0, opened = 0;
    alignas(64) int32_t found[M];
    for (int64_t i = 0; i < rows_.n; i += M) {
      const int64_t count = rows_.n - i < M ? rows_.n - i : M;
      const uint64_t here = ~uint64_t(0) >> (64 - count);
      uint64_t open = 0;
      if (in_integers_) {
        open = integers_.assign(i, found) & here;
        opened += __builtin_popcountll(open);
        in_integers_ = opened <= most_open;
      }
      if (!in_integers_) {
        if (!packed) tiles_.pack(centers_.data(), k_);
        packed = true;
        open = 0;
        for (int64_t p = 0; p < M; p += P)
          open |= nearest(rows_.panels.data() + (i + p) * d_, margins, found + p) << p;
        open &= here;
      }
      if (open && k_ > 1) decide(i, open, found);
      moved += move<First>(i, here, found);
    }
    return moved;
  }

  // Labels of a panel by difference scores, and the bits of the rows that these leave open.
  uint64_t nearest(const X* panel, const Margins<X>& margins, int32_t* found) const {
    typedef typename VecOf<int32_t, kLanes<X>>::type Ints;
    constexpr int V = kPanelVectors;
    const Vec<X> one = splat(X(1));
    Vec<X> m1[V], m2[V], at[V], here = {};
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      m1[v] = m2[v] = splat(X(__builtin_inf()));
      at[v] = Vec<X>{};
    }
    for (int64_t block = 0; block < tiles_.blocks(); ++block) {
      Vec<X> s[kCenters][V];
      score_tile(panel, tiles_, block, s);
#pragma GCC unroll 4
      for (int j = 0; j < kCenters; ++j) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          at[v] = less_select(s[j][v], m1[v], here, at[v]);
          m2[v] = vmin(m2[v], vmax(m1[v], s[j][v]));
          m1[v] = vmin(m1[v], s[j][v]);
        }
        here += one;
      }
    }
    uint64_t open = 0;
    for (int v = 0; v < V; ++v) {
      const Ints labels = __builtin_convertvector(at[v], Ints);
      __builtin_memcpy(found + v * kLanes<X>, &labels, sizeof labels);
      open |= uint64_t(not_greater(m2[v] * margins.less - margins.tiny, m1[v] * margins.more + margins.tiny))
              << (v * kLanes<X>);
    }
    return open;
  }

  // D against every centroid, for the rows that screening left open.
  GPUKM_APART void decide(int64_t i, uint64_t rows, int32_t* found) {
    for (; rows; rows &= rows - 1) {
      const int r = __builtin_ctzll(rows);
      double best = __builtin_inf();
      for (int64_t j = 0; j < k_; ++j) {
        const double v = exact_distance(rows_.x + (i + r) * d_, centers_.data() + j * d_, d_);
        if (v < best) {
          best = v;
          found[r] = int32_t(j);
        }
      }
      ++rechecked_;
    }
  }

  template <bool Moves>
  void change(SmallSums<X>& sums, int64_t row, int64_t from, int64_t to) const {
    const X* x = rows_.x + row * d_;
    if (rows_.w)
      sums.template move<Moves, true>(x, rows_.w[row], from, to, rows_.scales.data(), rows_.weight_scale);
    else
      sums.template move<Moves, false>(x, 1.0, from, to, rows_.scales.data(), rows_.weight_scale);
  }

  template <bool First>
  int64_t move(int64_t i, uint64_t here, const int32_t* found) {
    int32_t* labels = labels_.data() + i;
    uint64_t changed = here;
    if (!First) {
      changed = 0;
      for (int64_t r = 0; r < kMostPanelRows; r += kLanes<int32_t>)
        changed |= uint64_t(sign_bits(load(labels + r) != load(found + r))) << r;
      changed &= here;
    }
    for (uint64_t rest = changed; rest; rest &= rest - 1) {
      const int r = __builtin_ctzll(rest);
      change<!First>(stats_, i + r, First ? 0 : labels[r], found[r]);
      labels[r] = found[r];
    }
    return __builtin_popcountll(changed);
  }

  // Sums and weights of the clusters, each rounded once: both parts are exact, so one addition rounds their sum.
  GPUKM_APART void weigh(const SmallSums<X>& stats) {
    for (int64_t j = 0; j < k_; ++j) {
      weights_[j] = b_.w ? (stats.w_hi[j] + stats.w_lo[j]) * rows_.weight_unscale : double(stats.counts[j]);
      const double *hi = stats.hi.data() + j * d_, *lo = stats.lo.data() + j * d_, *unit = rows_.unscales.data();
      double* to = sums_.data() + j * d_;
      for (int64_t f = 0; f < d_; ++f) to[f] = (hi[f] + lo[f]) * unit[f];
    }
  }

  // The exact spread and what the clusters gained on it.
  GPUKM_APART double display_inertia() {
    for (int64_t j = 0; j < k_; ++j)
      tree_[j] = gained(centers_.data() + j * d_, rows_.reference.data(), sums_.data() + j * d_, weights_[j], d_);
    const double v = rows_.spread + fold(tree_.data(), k_);
    return v < 0 ? 0 : v;
  }

  double mean_variance() {
    for (int64_t f = 0; f < d_; ++f) {
      double high = 0, low = 0;
      for (int64_t j = 0; j < k_; ++j) {
        high += stats_.hi[j * d_ + f];
        low += stats_.lo[j * d_ + f];
      }
      tree_[f] = (high + low) * rows_.unscales[f] / rows_.total_weight;
    }
    const double offset = exact_distance(tree_.data(), rows_.reference.data(), d_);
    const double v = rows_.spread / rows_.total_weight - offset;
    return (v < 0 ? 0 : v) / double(d_);
  }

  // Empty clusters take the rows farthest from their centroids. The sums of the labels stay as they are; those with rows
  // moved replace `sums_` and `weights_`.
  GPUKM_APART int64_t fill_empty() {
    int64_t n_empty = 0;
    for (int64_t j = 0; j < k_; ++j) n_empty += empty(j);
    if (!n_empty) return 0;
    filled_.copy(stats_);
    for (int64_t i = 0; i < rows_.n; ++i) distance_[i] = rows_.weight[i] > 0 ? own_distance(i) : -1.0;
    for (int64_t j = 0; j < k_; ++j) {
      if (!empty(j)) continue;
      int64_t row = -1;
      double most = 0;
      for (int64_t i = 0; i < rows_.n; ++i)
        if (distance_[i] > most) {
          most = distance_[i];
          row = i;
        }
      if (row < 0) break;
      distance_[row] = -1;
      change<true>(filled_, row, labels_[row], j);
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
      const double* sums = sums_.data() + j * d_;
      double divisor = weights_[j];
      bool used = divisor > 0;
      if (b_.spherical) {
        divisor = __builtin_sqrt(exact_distance(sums, origin_.data(), d_));
        used = used && divisor > 0;
      }
      X* to = next_.data() + j * d_;
      const X* from = centers_.data() + j * d_;
      if (used)
        for (int64_t f = 0; f < d_; ++f) to[f] = X(sums[f] / divisor);
      else
        __builtin_memcpy(to, from, size_t(d_) * sizeof(X));
      tree_[j] = exact_distance(to, from, d_);
    }
    *shift = fold(tree_.data(), k_);
    const size_t bytes = size_t(k_ * d_) * sizeof(X);
    const bool same = __builtin_memcmp(next_.data(), centers_.data(), bytes) == 0;
    __builtin_memcpy(centers_.data(), next_.data(), bytes);
    return same;
  }

  const Batch<X>& b_;
  const Rows<X>& rows_;
  const int64_t d_, k_;
  // Whether integers suit the problem, and whether those of this start do.
  bool suited_ = false, in_integers_ = false;
  Integers<X> integers_;
  Tiles<X> tiles_;
  int64_t iterations_ = 0, rechecked_ = 0;
  int32_t stop_ = 0;
  Buffer<X> centers_, next_;
  Buffer<int32_t> labels_;
  Buffer<double> distance_, sums_, weights_, tree_, origin_, history_;
  SmallSums<X> stats_, filled_;  // of the labels, and with empty clusters filled
};
