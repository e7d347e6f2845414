// Starts of a small problem: gpukm.core.seeding, to the bit.

// Philox-4x64-10 (Salmon et al., SC 2011) as NumPy counts it: element i of the stream (seed, purpose).
class Stream {
 public:
  Stream(uint64_t seed, uint64_t purpose) : seed_(seed), purpose_(purpose) {}
  uint64_t operator[](uint64_t i) {
    if (i / 4 + 1 != block_) fill(i / 4 + 1);
    return out_[i % 4];
  }
  // In [0, bound): the high half of the product.
  int64_t below(int64_t bound, uint64_t i) {
    return int64_t((unsigned __int128)((*this)[i]) * (unsigned __int128)(uint64_t(bound)) >> 64);
  }

 private:
  void fill(uint64_t block) {
    uint64_t c[4] = {block, 0, 0, 0}, k0 = seed_, k1 = purpose_;
    for (int round = 0; round < 10; ++round) {
      const unsigned __int128 a = (unsigned __int128)(0xD2E7470EE14C6C93u) * c[0];
      const unsigned __int128 b = (unsigned __int128)(0xCA5A826395121157u) * c[2];
      const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k0, uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k1, uint64_t(a)};
      __builtin_memcpy(c, next, sizeof c);
      k0 += 0x9E3779B97F4A7C15u;
      k1 += 0xBB67AE8584CAA73Bu;
    }
    __builtin_memcpy(out_, c, sizeof c);
    block_ = block;
  }
  uint64_t seed_, purpose_, block_ = 0, out_[4] = {};
};

template <class X>
class Seeds {
 public:
  Seeds(const Rows<X>& rows, int64_t k, int64_t trials)
      : rows_(rows), d_(rows.d), k_(k), trials_(trials), nearest_(rows.most), near_(rows.most),
        scores_(rows.most * trials), prefix_(rows.most), mass_(rows.most / kPanelRows<X>), taken_(rows.most),
        tiles_(trials, rows.d), points_(trials * rows.d), point_(rows.d), potentials_(trials), chosen_(trials) {}

  // Draws k rows into `centers`.
  void draw(uint64_t seed, X* centers) {
    centers_ = centers;
    if (rows_.positive < k_) {
      random_rows(rows_.positive, seed);
      repeat_first(rows_.positive);
    } else if (trials_ == 0) {
      random_rows(k_, seed);
    } else {
      plus_plus(seed);
    }
  }

 private:
  enum Purpose : uint64_t { kRandomRows = 1, kPlusPlus = 2 };  // of gpukm.core.rng

  void take_row(int64_t row, int64_t center) {
    __builtin_memcpy(centers_ + center * d_, rows_.x + row * d_, size_t(d_) * sizeof(X));
  }
  void repeat_first(int64_t from) {
    for (int64_t j = from; j < k_; ++j) __builtin_memcpy(centers_ + j * d_, centers_, size_t(d_) * sizeof(X));
  }

  // The first row whose prefix sum exceeds the target.
  int64_t locate(int64_t target) const { return first_above(prefix_.data(), rows_.n, target); }

  // gpukm.core.seeding.random_rows: `count` different rows in proportion to their weights.
  GPUKM_APART void random_rows(int64_t count, uint64_t seed) {
    Stream draws(seed, kRandomRows);
    const int exponent = kDrawBits - exponent_of(rows_.total_weight);
    int64_t found = 0;
    uint64_t draw = 0;
    __builtin_memset(taken_.data(), 0, size_t(rows_.n));
    while (found < count) {
      // Where all rows weigh the same and none is taken, the prefix sum of row i is i + 1.
      const bool even = !rows_.w && !found;
      int64_t sum = even ? rows_.n : 0;
      for (int64_t i = 0; !even && i < rows_.n; ++i) {
        int64_t q = 1;
        if (rows_.w) {
          q = __builtin_llrint(__builtin_ldexp(rows_.w[i], exponent));
          q = rows_.w[i] > 0 && q < 1 ? 1 : q;
        }
        sum += taken_[i] ? 0 : q;
        prefix_[i] = sum;
      }
      const int64_t wanted = count - found;
      for (int64_t t = 0; t < wanted; ++t) {
        const int64_t target = draws.below(sum, draw + uint64_t(t)), row = even ? target : locate(target);
        if (taken_[row]) continue;
        taken_[row] = 1;
        take_row(row, found++);
      }
      draw += uint64_t(wanted);
    }
  }

  // gpukm.core.seeding.kmeans_plus_plus. Scores in X and their bounds decide where they can; the exact distances of all
  // centers are made up for where they cannot.
  void plus_plus(uint64_t seed) {
    Stream draws(seed, kPlusPlus);
    random_rows(1, seed);
    for (int64_t i = 0; i < rows_.all(); ++i) {
      nearest_[i] = __builtin_inf();
      near_[i] = X(__builtin_inf());
    }
    counted_ = 0;
    made_ = 1;
    exponent_ = rows_.first_exponent;
    score(centers_, 1);
    come_nearer(0);
    for (uint64_t draw = 0; made_ < k_; draw += uint64_t(trials_)) {
      bool any = true;
      if (!draw_screened(draws, draw)) any = draw_exactly(draws, draw);
      if (!any) return repeat_first(made_);
      const int64_t n = pick_different();
      score(points_.data(), n);
      int64_t best = n > 1 ? lowest_screened(n) : 0;
      if (best < 0) best = lowest_exactly(n);
      take_row(chosen_[best], made_++);
      if (made_ < k_) come_nearer(best);
    }
  }

  // Drops rows chosen twice and gathers the others; returns how many there are.
  int64_t pick_different() {
    int64_t n = 0;
    for (int64_t t = 0; t < trials_; ++t) {
      const int64_t row = chosen_[t];
      bool again = false;
      for (int64_t other = 0; other < n; ++other) again |= chosen_[other] == row;
      if (again) continue;
      chosen_[n] = row;
      __builtin_memcpy(points_.data() + n++ * d_, rows_.x + row * d_, size_t(d_) * sizeof(X));
    }
    return n;
  }

  // Scores of n points, and the potentials that they would leave.
  void score(const X* points, int64_t n) {
    tiles_.pack(points, n);
    for (int64_t first = 0; first < n; first += kCenters)
      if (n - first == 1)
        score_block<1>(first, 1);
      else
        score_block<kCenters>(first, n - first < kCenters ? n - first : kCenters);
  }

  template <int C>
  GPUKM_APART void score_block(int64_t first, int64_t count) {
    constexpr int64_t P = kPanelRows<X>;
    Vec<X> sum[C] = {};
    for (int64_t i = 0; i < rows_.all(); i += P) {
      Vec<X> s[C][kPanelVectors];
      score_tile(rows_.panels.data() + i * d_, tiles_, first / kCenters, s);
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) {
        const Vec<X> near = load(near_.data() + i + v * kLanes<X>);
        const Vec<X> weight = load(rows_.narrow_weight.data() + i + v * kLanes<X>);
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) sum[j] += weight * vmin(near, s[j][v]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) {
        if (j == count) break;
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v)
          store(scores_.data() + (first + j) * rows_.most + i + v * kLanes<X>, s[j][v]);
      }
    }
    for (int64_t j = 0; j < count; ++j) {
      double v = 0;
      for (int l = 0; l < kLanes<X>; ++l) v += double(sum[j][l]);
      potentials_[first + j] = v;
    }
  }

  // Takes the scores of a candidate that became a center into account. `mass_` gets the prefix sums of w near by panel.
  GPUKM_APART void come_nearer(int64_t candidate) {
    constexpr int64_t P = kPanelRows<X>;
    const X* scores = scores_.data() + candidate * rows_.most;
    double mass = 0;
    for (int64_t i = 0; i < rows_.all(); i += P) {
      Vec<X> sum = {};
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t at = i + v * kLanes<X>;
        const Vec<X> near = vmin(load(near_.data() + at), load(scores + at));
        store(near_.data() + at, near);
        sum += load(rows_.narrow_weight.data() + at) * near;
      }
      double panel = 0;
      for (int l = 0; l < kLanes<X>; ++l) panel += double(sum[l]);
      mass += panel;
      mass_[i / P] = mass;
    }
  }

  // How far a sum over rows of w near lies from that of w nearest, relative to it: the score, the roundings of the weight
  // and of the product, `chain` additions in X, and D itself.
  double share(int64_t chain) const {
    const double exact = double(d_ / 8 + 8) * 0x1p-53;
    return kBoundFactor * double(d_ + chain + 12) * Limits<X>::unit * (1 + 0x1p-6) + 2 * exact;
  }
  // What underflow may take from it or add.
  double underflow() const {
    return 4 * (rows_.total_weight * double(d_ + 8) + double(rows_.n)) * Limits<X>::tiny;
  }

  // Draws candidates; false where rounding leaves open which, or on which grid.
  GPUKM_APART bool draw_screened(Stream& draws, uint64_t draw) {
    constexpr int64_t P = kPanelRows<X>;
    const int64_t panels = rows_.all() / P;
    const double total = mass_[panels - 1], away = total * share(kPanelVectors + 1) + underflow();
    if (!(total > 0 && total < 1e300)) return false;
    // The grid follows the total as it does in draw_exactly(): half a step a row.
    int exponent = exponent_;
    for (;;) {
      const double grid = __builtin_ldexp(1.0, exponent), slack = away * grid + double(rows_.n);
      const double low = total * grid - slack + double(rows_.n), high = total * grid + slack + double(rows_.n);
      if (!(low > double(rows_.n) + 1) || exponent_of(low) != exponent_of(high)) return false;
      const int spare = kDrawBits - exponent_of(low);
      if (spare < 8 || exponent + spare > 1000) break;
      exponent += spare - 1;
    }
    // Both the total and a prefix sum may be off by as much, and by the roundings of all terms to the grid.
    const double open = 2 * (away + double(rows_.n + 2) * __builtin_ldexp(1.0, -exponent) + total * 0x1p-40);
    for (int64_t t = 0; t < trials_; ++t) {
      const double target = total * (double(draws[draw + uint64_t(t)]) * 0x1p-64);
      const int64_t low = first_above(mass_.data(), panels, target);
      double before = low ? mass_[low - 1] : 0, upto = before;
      int64_t row = low * P;
      for (;; ++row) {
        upto += double(rows_.narrow_weight[row]) * double(near_[row]);
        if (upto > target || row == low * P + P - 1) break;
        before = upto;
      }
      if (row >= rows_.n || !(upto > target + open) || (row > 0 && !(before < target - open))) return false;
      chosen_[t] = row;
    }
    exponent_ = exponent;
    return true;
  }

  // The same by exact sums; false where every row is a center.
  GPUKM_APART bool draw_exactly(Stream& draws, uint64_t draw) {
    catch_up();
    int64_t sum;
    for (;;) {
      const double scale = __builtin_ldexp(1.0, exponent_);
      sum = 0;
      for (int64_t i = 0; i < rows_.n; ++i) {
        sum += __builtin_llrint(rows_.weight[i] * nearest_[i] * scale);
        prefix_[i] = sum;
      }
      // A grid that uses most of 60 bits for the total, of which each row may have lost half a unit.
      const int spare = kDrawBits - (64 - __builtin_clzll(uint64_t(sum + rows_.n)));
      if (spare < 8 || exponent_ + spare > 1000) break;
      exponent_ += spare - 1;
    }
    for (int64_t t = 0; sum && t < trials_; ++t) chosen_[t] = locate(draws.below(sum, draw + uint64_t(t)));
    return sum != 0;
  }

  // The one of n candidates that leaves the lowest potential; -1 where their errors leave it open.
  int64_t lowest_screened(int64_t n) const {
    int64_t best = 0;
    for (int64_t t = 1; t < n; ++t) best = potentials_[t] < potentials_[best] ? t : best;
    const double share_of_all = share(rows_.all() / kLanes<X>);
    const double slack = underflow() + double(rows_.n) * __builtin_ldexp(1.0, -exponent_);
    for (int64_t t = 0; t < n; ++t)
      if (t != best &&
          !(potentials_[best] * (1 + share_of_all) + slack < potentials_[t] * (1 - share_of_all) - slack))
        return -1;
    return best;
  }

  // The same by sums of rint(w * min(nearest, D) * 2^exponent), ties to the first.
  GPUKM_APART int64_t lowest_exactly(int64_t n) {
    catch_up();
    int64_t best = 0, least = 0;
    for (int64_t t = 0; t < n; ++t) {
      const int64_t v = potential(points_.data() + t * d_);
      if (t > 0 && v >= least) continue;
      least = v;
      best = t;
    }
    return best;
  }

  // In two parts that stay exact in float64.
  int64_t potential(const X* point) {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    for (int64_t f = 0; f < d_; ++f) point_[f] = double(point[f]);
    const Vec<double> high_round = splat(kRoundHigh), low_round = splat(kRoundLow);
    const Vec<double> grid = splat(__builtin_ldexp(1.0, exponent_));
    Vec<double> high_sum = {}, low_sum = {};
    for (int64_t i = 0; i < rows_.all(); i += P)
      for (int64_t r = 0; r < P; r += L) {
        const Vec<double> v = exact_lanes(rows_.panels.data() + i * d_ + r, P, point_.data(), d_);
        const Vec<double> q = load(rows_.weight.data() + i + r) * vmin(v, load(nearest_.data() + i + r)) * grid;
        const Vec<double> high = (q + high_round) - high_round;
        high_sum += high;
        low_sum += ((q - high) + low_round) - low_round;
      }
    int64_t sum = 0;
    for (int l = 0; l < L; ++l) sum += int64_t(high_sum[l]) + int64_t(low_sum[l]);
    return sum;
  }

  // `nearest_` takes in the centers made since it was last needed.
  GPUKM_APART void catch_up() {
    constexpr int64_t P = kPanelRows<X>, L = kLanes<double>;
    for (; counted_ < made_; ++counted_) {
      for (int64_t f = 0; f < d_; ++f) point_[f] = double(centers_[counted_ * d_ + f]);
      for (int64_t i = 0; i < rows_.all(); i += P)
        for (int64_t r = 0; r < P; r += L) {
          const Vec<double> v = exact_lanes(rows_.panels.data() + i * d_ + r, P, point_.data(), d_);
          store(nearest_.data() + i + r, vmin(v, load(nearest_.data() + i + r)));
        }
    }
  }

  const Rows<X>& rows_;
  const int64_t d_, k_, trials_;
  X* centers_ = nullptr;
  int64_t made_ = 0, counted_ = 0;  // centers, and those that nearest_ knows
  int exponent_ = 0;
  Buffer<double> nearest_;  // D
  Buffer<X> near_, scores_;  // by scores, and the scores of each candidate
  Buffer<int64_t> prefix_;
  Buffer<double> mass_;
  Buffer<uint8_t> taken_;
  Tiles<X> tiles_;
  Buffer<X> points_;
  Buffer<double> point_, potentials_;
  Buffer<int64_t> chosen_;
};
