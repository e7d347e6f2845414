// Whole fits of many small problems, a thread a problem: what gpukm.functional.kmeans does, step by step and bit by bit.
// What the door of a fit may refuse (values that are not finite, too few rows) is left to it: `solved` stays 0.

template <class X>
class Solver {
 public:
  Solver(const Batch<X>& b, int64_t most_rows)
      : b_(b), rows_(b.d, most_rows), seeds_(rows_, b.k, b.trials), lloyd_(b, rows_) {}

  // Solves one problem; false where the loop was told to stop.
  template <class GoOn>
  bool solve(int64_t problem, GoOn go_on) {
    const int64_t first = b_.offsets[problem], n = b_.offsets[problem + 1] - first, size = b_.k * b_.d;
    if (n < b_.k || !rows_.take(b_.x + first * b_.d, b_.w ? b_.w + first : nullptr, n)) return true;
    lloyd_.take();
    for (int64_t f = 0; f < b_.d; ++f) b_.constant[problem * b_.d + f] = rows_.minimum[f] == rows_.maximum[f];
    b_.total_weight[problem] = rows_.total_weight;
    double best = 0;
    for (int64_t start = 0; start < b_.n_init; ++start) {
      const uint64_t seed = start ? Stream(b_.seeds[problem], kRestart)[uint64_t(start)] : b_.seeds[problem];
      if (b_.start)
        __builtin_memcpy(lloyd_.centers(), b_.start + problem * size, size_t(size) * sizeof(X));
      else
        seeds_.draw(seed, lloyd_.centers());
      if (!lloyd_.iterate(go_on)) return false;
      double inertia;
      if (!lloyd_.total(&inertia)) return true;
      if (start > 0 && inertia >= best) continue;
      best = inertia;
      lloyd_.keep(problem, first, start, inertia);
    }
    b_.solved[problem] = 1;
    return true;
  }

 private:
  static constexpr uint64_t kRestart = 6;  // of gpukm.core.rng

  const Batch<X>& b_;
  Rows<X> rows_;
  Seeds<X> seeds_;
  Lloyd<X> lloyd_;
};

template <class X>
bool batch(const Batch<X>& batch, int threads) {
  int64_t most = 0;
  for (int64_t i = 0; i < batch.n_problems; ++i) {
    const int64_t n = batch.offsets[batch.order[i] + 1] - batch.offsets[batch.order[i]];
    most = n > most ? n : most;
  }
  int stopped = 0;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    Solver<X> solver(batch, most);
    const bool asks = thread_number() == 0;
    auto go_on = [&] {
      if (asks && batch.interrupted()) __atomic_store_n(&stopped, 1, __ATOMIC_RELAXED);
      return !__atomic_load_n(&stopped, __ATOMIC_RELAXED);
    };
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch.n_problems; ++i)
      if (go_on()) solver.solve(batch.order[i], go_on);
  }
  return !stopped;
}
