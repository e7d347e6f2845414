// Candidates for centres: which rows each is nearer to than any centre so far, and the greedy choice among them.
//
// Candidates are screened against the rows as centroids are in an assignment, but a row's threshold is the distance to its
// nearest centre, and D decides all that stays below it. The lists are short, so that choosing looks at few rows. A
// candidate's gain can only fall as others are chosen: the largest one known is looked at again, and taken where it stays the
// largest (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978).

// An array that grows.
template <class T>
class Growing {
 public:
  Growing() = default;
  ~Growing() { deallocate(p_); }
  Growing(const Growing&) = delete;
  int64_t size() const { return n_; }
  T* data() { return p_; }
  T& operator[](int64_t i) { return p_[i]; }
  void push(T value) {
    if (n_ == room_) reserve(room_ ? 2 * room_ : 1024);
    p_[n_++] = value;
  }
  // New elements are uninitialised.
  void resize(int64_t n) {
    if (n > room_) reserve(n);
    n_ = n;
  }
  void swap(Growing& other) {
    Growing* const both[2] = {this, &other};
    T* const p[2] = {other.p_, p_};
    const int64_t n[2] = {other.n_, n_}, room[2] = {other.room_, room_};
    for (int i = 0; i < 2; ++i) both[i]->p_ = p[i], both[i]->n_ = n[i], both[i]->room_ = room[i];
  }

 private:
  void reserve(int64_t room) {
    T* more = static_cast<T*>(allocate(size_t(room) * sizeof(T)));
    if (n_) __builtin_memcpy(static_cast<void*>(more), p_, size_t(n_) * sizeof(T));
    deallocate(p_);
    p_ = more, room_ = room;
  }

  T* p_ = nullptr;
  int64_t n_ = 0, room_ = 0;
};

// A row that a candidate is nearer to than any centre.
struct Near {
  int32_t candidate, row;
  double distance;
};

// What one thread found, and what it took.
struct Found {
  Growing<Near> near;
  int64_t pairs = 0, compared = 0;
  // A rung is given up where it leaves to D, in vain, more than a sixteenth of the pairs: D takes that much longer.
  bool in_vain() const { return (compared - near.size()) * 16 > pairs; }
};

// Rows [begin, end), at most lane.rows, against all candidates; own[i] = D(x_i, m), m being the origin of screening.
template <class X, class T, Form F>
void find_near(const X* x, int64_t begin, int64_t end, const Prepared<X>& candidates, Lane<X, T>& lane,
               const double* nearest, const double* own, Found& found) {
  constexpr int P = kPanel<T>;
  const Packed<X, T>& p = lane.p;
  const int64_t n_panels = (end - begin + P - 1) / P, d = p.d;
  // Errors of D, and those of T, with room for the roundings here.
  const double more = 1 + 4 * double(d / 8 + 8) * 0x1p-53, less = 2 - more, unit = 4 * Limits<T>::unit;
  for (int64_t i = 0; i < n_panels; ++i) {
    const X* rows[P];
    for (int64_t r = 0; r < P; ++r) {
      const int64_t row = begin + i * P + r < end ? begin + i * P + r : begin;
      rows[r] = x + row * d;
      double t = nearest[row] * more;
      // s^2 D = |x'|^2 + 2 score
      if constexpr (F != Form::difference) t = 0.5 * (t * p.scale * p.scale - own[row] * p.scale * p.scale * less);
      lane.states[i].upper[r] = T(t + __builtin_fabs(t) * unit);
    }
    pack_panel<F>(rows, p, lane.room.data(), lane.panels.data() + i * P * p.words, lane.facts[i]);
  }
  for (int64_t t = 0; t < p.n_tiles; ++t)
    for (int64_t i = 0; i < n_panels; ++i) {
      const int64_t first = begin + i * P, count = end - first < P ? end - first : P;
      within_tile<X, T, F>(p, p.tiles[t], lane.panels.data() + i * P * p.words, lane.facts[i], lane.states[i].upper,
                           count, [&](int64_t r, int64_t place) {
                             const int64_t row = first + r;
                             const int32_t j = p.index[place];
                             const double v = exact_distance(x + row * d, candidates.centroids.data() + j * d, d);
                             ++found.compared;
                             if (v < nearest[row]) found.near.push({j, int32_t(row), v});
                           });
    }
  found.pairs += (end - begin) * p.unique;
}

template <class X>
class Pool {
 public:
  Pool(int64_t n, int64_t d) : n_(n), d_(d), own_(n), center_(d) {}

  void add(const X* x, Frame frame, const double* nearest, const int64_t* rows, int64_t m, int threads) {
    FloatMode mode;
    if (m == 0) return;
    if (!begun_) begin(x, frame, threads);
    Buffer<X> points(m * d_);
    for (int64_t j = 0; j < m; ++j)
      __builtin_memcpy(points.data() + j * d_, x + rows[j] * d_, size_t(d_) * sizeof(X));
    const Prepared<X> prepared(points.data(), m, d_, Frame{center_.data(), frame.radius}, threads);
    Growing<Near> near;
    find(x, prepared, nearest, near, threads);
    take(rows, m, near);
  }

  int64_t choose(const double* w, double scale, int32_t* labels, double* nearest, int64_t first, int64_t most,
                 int64_t enough, int64_t* chosen, int threads) {
    FloatMode mode;
    w_ = w, nearest_ = nearest, scale_ = scale;
    share_.resize(n_);
    const int64_t m = candidates_.size();
#pragma omp parallel num_threads(threads)
    {
      FloatMode here;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n_; ++i) share_[i] = share(i, nearest[i]);
#pragma omp for schedule(dynamic, 64)
      for (int64_t j = 0; j < m; ++j) look(candidates_[j]);
    }
    drop_empty();
    order();
    int64_t count = 0, gained = 0;
    while (count < most && gained < enough && heap_.size()) {
      Candidate& top = candidates_[heap_[0]];
      look(top);
      if (sift(0)) continue;
      // No other gains more.
      if (!top.gain) break;
      chosen[count++] = top.row;
      gained += top.gain;
      for (int64_t e = top.start; e < top.start + top.count; ++e) {
        nearest_[row_[e]] = distance_[e];
        labels[row_[e]] = int32_t(first + count - 1);
        share_[row_[e]] = share(row_[e], distance_[e]);
      }
      top.count = 0;
      heap_[0] = heap_[heap_.size() - 1];
      heap_.resize(heap_.size() - 1);
      sift(0);
    }
    return count;
  }

 private:
  struct Candidate {
    int64_t row, start, count, gain;  // its list is row_ and distance_ [start, start + count)
  };

  void begin(const X* x, Frame frame, int threads) {
    Buffer<X> origin(d_);
    for (int64_t f = 0; f < d_; ++f) origin[f] = X(frame.center[f]), center_[f] = double(origin[f]);
    cross(x, n_, d_, origin.data(), 1, own_.data(), threads);
    begun_ = true;
  }

  void find(const X* x, const Prepared<X>& prepared, const double* nearest, Growing<Near>& all, int threads) {
    const int64_t words = prepared.first == kWideRung ? prepared.wide->words : prepared.narrow[prepared.first]->words;
    const int64_t step = prepared.first == kWideRung ? Lane<X, double>::rows_at_once(words, n_, threads)
                                                     : Lane<X, float>::rows_at_once(words, n_, threads);
#pragma omp parallel num_threads(threads)
    {
      FloatMode mode;
      int rung = prepared.first;
      Lane<X, float>* narrow[2] = {};
      Lane<X, double>* wide = nullptr;
      Found found;
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < n_; i += step) {
        const int64_t stop = i + step < n_ ? i + step : n_;
        if (rung < kWideRung) {
          Lane<X, float>*& lane = narrow[rung];
          if (!lane) {
            prepared.need(Rung(rung));
            lane = new Lane<X, float>(*prepared.narrow[rung], n_, threads);
          }
          search(x, i, stop, prepared, *lane, nearest, found);
          if (found.in_vain()) {
            ++rung;
            found.pairs = 0, found.compared = found.near.size();
          }
        } else {
          if (!wide) {
            prepared.need(kWideRung);
            wide = new Lane<X, double>(*prepared.wide, n_, threads);
          }
          search(x, i, stop, prepared, *wide, nearest, found);
        }
      }
      for (Lane<X, float>* lane : narrow) delete lane;
      delete wide;
#pragma omp critical(gpukm_pool)
      {
        const int64_t before = all.size();
        all.resize(before + found.near.size());
        if (found.near.size())
          __builtin_memcpy(all.data() + before, found.near.data(), size_t(found.near.size()) * sizeof(Near));
      }
    }
  }

  template <class T>
  void search(const X* x, int64_t begin, int64_t end, const Prepared<X>& prepared, Lane<X, T>& lane,
              const double* nearest, Found& found) {
    with_form<T>(lane.p.form, [&](auto is) {
      for (int64_t i = begin; i < end; i += lane.rows)
        find_near<X, T, decltype(is)::form>(x, i, i + lane.rows < end ? i + lane.rows : end, prepared, lane, nearest,
                                            own_.data(), found);
    });
  }

  // New candidates with their lists, behind those there are; what left the lists of these leaves memory.
  void take(const int64_t* rows, int64_t m, Growing<Near>& near) {
    const int64_t before = candidates_.size();
    int64_t total = near.size();
    for (int64_t j = 0; j < before; ++j) total += candidates_[j].count;
    Growing<int32_t> row;
    Growing<double> distance;
    row.resize(total), distance.resize(total);
    int64_t end = 0;
    for (int64_t j = 0; j < before; ++j) {
      Candidate& c = candidates_[j];
      if (c.count) {
        __builtin_memcpy(row.data() + end, row_.data() + c.start, size_t(c.count) * sizeof(int32_t));
        __builtin_memcpy(distance.data() + end, distance_.data() + c.start, size_t(c.count) * sizeof(double));
      }
      c.start = end;
      end += c.count;
    }
    for (int64_t j = 0; j < m; ++j) candidates_.push({rows[j], 0, 0, 0});
    for (int64_t e = 0; e < near.size(); ++e) ++candidates_[before + near[e].candidate].count;
    for (int64_t j = before; j < before + m; ++j) {
      candidates_[j].start = end;
      end += candidates_[j].count;
      candidates_[j].count = 0;
    }
    for (int64_t e = 0; e < near.size(); ++e) {
      Candidate& c = candidates_[before + near[e].candidate];
      row[c.start + c.count] = near[e].row;
      distance[c.start + c.count] = near[e].distance;
      ++c.count;
    }
    row_.swap(row), distance_.swap(distance);
  }

  int64_t share(int64_t i, double v) const { return int64_t(__builtin_rint((w_ ? w_[i] * v : v) * scale_)); }

  // Leaves in a candidate's list the rows it is still nearer to, and adds up what it would gain.
  void look(Candidate& c) {
    int64_t kept = c.start, gain = 0;
    for (int64_t e = c.start; e < c.start + c.count; ++e) {
      const int32_t row = row_[e];
      const double v = distance_[e];
      if (!(v < nearest_[row])) continue;
      gain += share_[row] - share(row, v);
      row_[kept] = row, distance_[kept] = v;
      ++kept;
    }
    c.count = kept - c.start, c.gain = gain;
  }

  void drop_empty() {
    int64_t kept = 0;
    for (int64_t j = 0; j < candidates_.size(); ++j)
      if (candidates_[j].count) candidates_[kept++] = candidates_[j];
    candidates_.resize(kept);
  }

  // The candidates as a heap, that of the largest gain on top, of equals the first.
  void order() {
    const int64_t m = candidates_.size();
    heap_.resize(m);
    for (int64_t i = 0; i < m; ++i) heap_[i] = int32_t(i);
    for (int64_t i = m / 2; i-- > 0;) sift(i);
  }

  bool above(int32_t a, int32_t b) {
    const int64_t gain = candidates_[a].gain, other = candidates_[b].gain;
    return gain > other || (gain == other && a < b);
  }

  // Moves an element down to where it belongs; whether it moved.
  bool sift(int64_t at) {
    const int64_t m = heap_.size();
    bool moved = false;
    for (;;) {
      int64_t next = 2 * at + 1;
      if (next >= m) return moved;
      if (next + 1 < m && above(heap_[next + 1], heap_[next])) ++next;
      if (!above(heap_[next], heap_[at])) return moved;
      const int32_t down = heap_[at];
      heap_[at] = heap_[next], heap_[next] = down;
      at = next, moved = true;
    }
  }

  int64_t n_, d_;
  bool begun_ = false;
  Buffer<double> own_, center_;
  Growing<Candidate> candidates_;
  Growing<int32_t> row_, heap_;
  Growing<double> distance_;
  Growing<int64_t> share_;
  const double* w_ = nullptr;
  double *nearest_ = nullptr, scale_ = 0;
};

template <class X>
void* pool_start(int64_t n, int64_t d) {
  return new Pool<X>(n, d);
}

template <class X>
void pool_stop(void* pool) {
  delete static_cast<Pool<X>*>(pool);
}

template <class X>
void pool_add(void* pool, const X* x, Frame frame, const double* nearest, const int64_t* rows, int64_t m, int threads) {
  static_cast<Pool<X>*>(pool)->add(x, frame, nearest, rows, m, threads);
}

template <class X>
int64_t pool_choose(void* pool, const double* w, double scale, int32_t* labels, double* nearest, int64_t first,
                    int64_t most, int64_t enough, int64_t* chosen, int threads) {
  return static_cast<Pool<X>*>(pool)->choose(w, scale, labels, nearest, first, most, enough, chosen, threads);
}
