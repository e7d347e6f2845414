// Seeding within cells: greedy k-means++ on the rows of one cell at a time; a thread a cell, or all threads on the one.

// Rows of a panel, two vectors of them, and the candidates scored against them at once.
template <class X>
constexpr int64_t kSeedRows = 2 * kLanes<X>;
constexpr int64_t kSeedBlock = 4;

// Sums of squared differences of a panel to a block of points. A function of its own: the sums stay in registers.
template <class X>
__attribute__((noinline)) void seed_scores(const X* rows, int64_t d, const X* const* points,
                                           Vec<X> (*out)[2]) {
  constexpr int64_t V = kLanes<X>;
  Vec<X> sums[kSeedBlock][2] = {};
  for (int64_t f = 0; f < d; ++f) {
    const Vec<X> a = load(rows + f * 2 * V), b = load(rows + f * 2 * V + V);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kSeedBlock; ++j) {
      const Vec<X> c = splat(points[j][f]), da = a - c, db = b - c;
      sums[j][0] = fma(da, da, sums[j][0]);
      sums[j][1] = fma(db, db, sums[j][1]);
    }
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < kSeedBlock; ++j) out[j][0] = sums[j][0], out[j][1] = sums[j][1];
}

// One cell's rows, feature by feature, with what is known of each: the distance to the nearest centre so far, its
// share of the potential as an integer, and the score above which a candidate is surely no nearer.
template <class X>
class SeedCell {
 public:
  SeedCell(int64_t rows, int64_t d, int64_t trials, int64_t slices)
      : d_(d), trials_(trials), slices_(slices), packed_((rows + kSeedRows<X>)*d), limit_(rows + kSeedRows<X>),
        share_(rows), sums_(rows / kSeedRows<X> + 1), prefix_(rows / kSeedRows<X> + 1), gained_(trials * rows), improved_(trials * rows), counts_(slices * trials), gains_(slices * trials),
        rows_(trials + kSeedBlock), points_(trials + kSeedBlock) {}

  // Screening in X: a difference, a square and at most d additions, each rounded once; (D itself errs far less.)
  // `trusted` is false where squares might overflow.
  void begin(const X* x, const double* w, double* nearest, int64_t n, double scale, bool trusted) {
    x_ = x, w_ = w, nearest_ = nearest, n_ = n, scale_ = scale;
    const double unit = sizeof(X) == 4 ? 0x1p-23 : 0x1p-52, tiny = sizeof(X) == 4 ? 0x1p-126 : 0x1p-1022;
    const double relative = 2 * double(d_ + 16) * unit;
    trusted_ = trusted && relative < 0.25;
    grow_ = 1 + 2 * relative, add_ = 2 * double(d_ + 16) * tiny;
    const X* rows[kSeedRows<X>];
    for (int64_t p = 0; p < panels(); ++p) {
      for (int64_t l = 0; l < kSeedRows<X>; ++l) {
        const int64_t i = p * kSeedRows<X> + l;
        rows[l] = x + (i < n ? i : 0) * d_;
      }
      interleave(rows, d_, packed_.data() + p * d_ * kSeedRows<X>);
    }
    for (int64_t i = 0; i < n; ++i) limit_[i] = limit(nearest[i]);
    // Rows that are not there are never nearer.
    for (int64_t i = n; i < panels() * kSeedRows<X>; ++i) limit_[i] = X(-1);
  }

  // Takes centres of other cells into account.
  void lower(const X* x, int64_t d, const int64_t* rows, int64_t count) {
    const X* points[kSeedBlock];
    for (int64_t t = 0; t < count; t += kSeedBlock) {
      for (int64_t j = 0; j < kSeedBlock; ++j) points[j] = x + rows[t + j < count ? t + j : t] * d;
      for (int64_t p = 0; p < panels(); ++p)
        near(p, points, count - t, [&](int64_t i, int64_t j) {
          const double v = exact_distance(x_ + i * d_, points[j], d_);
          if (!(v < nearest_[i])) return;
          nearest_[i] = v;
          limit_[i] = limit(v);
        });
    }
  }

  // Shares out the potential, and returns it.
  int64_t settle() {
    total_ = 0;
    for (int64_t p = 0; p < panels(); ++p) {
      sums_[p] = 0;
      for (int64_t i = p * kSeedRows<X>; i < n_ && i < (p + 1) * kSeedRows<X>; ++i) sums_[p] += share_[i] = share(i, nearest_[i]);
      total_ += sums_[p];
    }
    return total_;
  }

  int64_t total() const { return total_; }

  // A step: draw candidates, each a row in proportion to its share; score them, slice by slice; keep the one that leaves
  // the least potential, the first of equals; note what it changes, slice by slice.
  void draw(const uint64_t* draws) {
    for (int64_t p = 0, sum = 0; p < panels(); ++p) prefix_[p] = sum += sums_[p];
    for (int64_t t = 0; t < trials_ + kSeedBlock; ++t) {
      rows_[t] = t < trials_ ? drawn(draws[t]) : rows_[0];
      points_[t] = x_ + rows_[t] * d_;
    }
  }

  void score(int64_t slice) {
    for (int64_t t = 0; t < trials_; ++t) counts_[slice * trials_ + t] = gains_[slice * trials_ + t] = 0;
    const int64_t first = first_panel(slice), last = first_panel(slice + 1);
    for (int64_t p = first; p < last; ++p)
      for (int64_t t = 0; t < trials_; t += kSeedBlock)
        near(p, points_.data() + t, trials_ - t, [&](int64_t i, int64_t j) {
          const double v = exact_distance(x_ + i * d_, points_[t + j], d_);
          if (!(v < nearest_[i])) return;
          const int64_t k = (t + j) * n_ + first * kSeedRows<X> + counts_[slice * trials_ + t + j]++;
          improved_[k] = i, gained_[k] = v;
          gains_[slice * trials_ + t + j] += share_[i] - share(i, v);
        });
  }

  int64_t best() const {
    int64_t found = 0;
    for (int64_t t = 1; t < trials_; ++t)
      if (gain(t) > gain(found)) found = t;
    return found;
  }

  void apply(int64_t slice, int64_t t) {
    const int64_t start = t * n_ + first_panel(slice) * kSeedRows<X>;
    for (int64_t k = start; k < start + counts_[slice * trials_ + t]; ++k) {
      const int64_t i = improved_[k];
      nearest_[i] = gained_[k];
      const int64_t before = share_[i];
      share_[i] = share(i, nearest_[i]);
      sums_[i / kSeedRows<X>] -= before - share_[i];
      limit_[i] = limit(nearest_[i]);
    }
  }

  int64_t take(int64_t t) {
    total_ -= gain(t);
    return rows_[t];
  }

 private:
  int64_t share(int64_t i, double v) const { return int64_t(__builtin_rint((w_ ? w_[i] * v : v) * scale_)); }

  X limit(double v) const {
    // The conversion rounds by half a unit, which the margin covers too.
    return trusted_ ? X(v * grow_ + add_) : X(__builtin_inf());
  }

  int64_t drawn(uint64_t bits) const {
    const int64_t target = int64_t((unsigned __int128)(bits)*uint64_t(total_) >> 64);
    const int64_t panel = first_above(prefix_.data(), panels(), target);
    int64_t i = panel * kSeedRows<X>;
    for (int64_t sum = prefix_[panel] - sums_[panel] + share_[i]; sum <= target && i + 1 < n_; sum += share_[i]) ++i;
    return i;
  }

  int64_t gain(int64_t t) const {
    int64_t sum = 0;
    for (int64_t s = 0; s < slices_; ++s) sum += gains_[s * trials_ + t];
    return sum;
  }

  int64_t first_panel(int64_t slice) const { return panels() * slice / slices_; }

  int64_t panels() const { return (n_ + kSeedRows<X> - 1) / kSeedRows<X>; }

  // Calls visit(row, j) for every row that point j of a block may be nearer to.
  template <class Visit>
  void near(int64_t panel, const X* const* points, int64_t count, Visit visit) {
    constexpr int64_t V = kLanes<X>, P = kSeedRows<X>;
    const int64_t start = panel * P;
    const Vec<X> limits[2] = {load(limit_.data() + start), load(limit_.data() + start + V)};
    Vec<X> sums[kSeedBlock][2];
    seed_scores(packed_.data() + start * d_, d_, points, sums);
    // Few are nearer: their bits are looked through together, since each look that finds one is a branch mispredicted.
    constexpr int64_t group = 64 / P < kSeedBlock ? 64 / P : kSeedBlock;
    for (int64_t first = 0; first < kSeedBlock; first += group) {
      uint64_t bits = 0;
#pragma GCC unroll 4
      for (int64_t j = 0; j < group; ++j)
#pragma GCC unroll 2
        for (int64_t h = 0; h < 2; ++h) bits |= uint64_t(not_greater(sums[first + j][h], limits[h])) << (j * P + h * V);
      for (; bits; bits &= bits - 1) {
        const int64_t bit = __builtin_ctzll(bits), i = start + bit % P, j = first + bit / P;
        if (i < n_ && j < count) visit(i, j);
      }
    }
  }

  int64_t d_, trials_, slices_, n_ = 0, total_ = 0;
  const X* x_ = nullptr;
  const double* w_ = nullptr;
  double *nearest_ = nullptr, scale_ = 0, grow_ = 1, add_ = 0;
  bool trusted_ = false;
  Buffer<X> packed_, limit_;
  Buffer<int64_t> share_, sums_, prefix_;  // of a row, of a panel, and of the panels up to one
  Buffer<double> gained_;
  Buffer<int64_t> improved_, counts_, gains_, rows_;
  Buffer<const X*> points_;
};

// Work of a step, in products, that is worth another thread's waiting.
constexpr int64_t kSliceWork = 1 << 19;

template <class X>
void seed_cells(const X* x, const double* w, int64_t d, const int64_t* starts, int64_t cells,
                const int64_t* arrivals, const int64_t* points, const int64_t* steps, const uint64_t* draws,
                int64_t trials, double scale, bool trusted, double* nearest, int64_t* chosen, int threads) {
  if (cells == 1) {
    // All threads on the one cell.
    FloatMode here;
    const int64_t n = starts[1], most = n * trials * d / kSliceWork;
    const int64_t slices = most < 1 ? 1 : most < threads ? most : threads;
    SeedCell<X> cell(n, d, trials, slices);
    cell.begin(x, w, nearest, n, scale, trusted);
    cell.lower(x, d, points, arrivals[1]);
    cell.settle();
#pragma omp parallel num_threads(int(slices))
    {
      FloatMode mode;
      // A team may be smaller than asked for.
      const int64_t me = thread_number(), team = team_size();
      for (int64_t s = 0; s < steps[1]; ++s) {
#pragma omp single
        if (cell.total() > 0) cell.draw(draws + s * trials);
        if (cell.total() == 0) {
#pragma omp single nowait
          for (int64_t r = s; r < steps[1]; ++r) chosen[r] = -1;
          break;
        }
        for (int64_t i = me; i < slices; i += team) cell.score(i);
#pragma omp barrier
        const int64_t best = cell.best();
        for (int64_t i = me; i < slices; i += team) cell.apply(i, best);
#pragma omp barrier
#pragma omp single
        chosen[s] = cell.take(best);
      }
    }
    return;
  }
  int64_t largest = 0;
  for (int64_t g = 0; g < cells; ++g)
    if (largest < starts[g + 1] - starts[g]) largest = starts[g + 1] - starts[g];
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    SeedCell<X> cell(largest, d, trials, 1);
#pragma omp for schedule(dynamic)
    for (int64_t g = 0; g < cells; ++g) {
      if (steps[g] == steps[g + 1] && arrivals[g] == arrivals[g + 1]) continue;
      const int64_t r0 = starts[g];
      cell.begin(x + r0 * d, w ? w + r0 : nullptr, nearest + r0, starts[g + 1] - r0, scale, trusted);
      cell.lower(x, d, points + arrivals[g], arrivals[g + 1] - arrivals[g]);
      if (steps[g] == steps[g + 1]) continue;
      cell.settle();
      for (int64_t s = steps[g]; s < steps[g + 1]; ++s) {
        chosen[s] = -1;
        if (cell.total() == 0) continue;
        cell.draw(draws + s * trials);
        cell.score(0);
        const int64_t best = cell.best();
        cell.apply(0, best);
        chosen[s] = r0 + cell.take(best);
      }
    }
  }
}
