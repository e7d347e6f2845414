// Runs each kernel once, on fixed data and one thread, for valgrind to count its instructions.
//
// A line each says which kernel it was, and by how many steps its count is to be divided. instructions.json holds the
// quotients that tests/unit/kernels/test_instructions.py allows.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "dispatch.h"
#include "draws.h"

using gpukm::Batch;
using gpukm::When;
using gpukm::Draws;
using gpukm::Frame;
using gpukm::Ops;
using gpukm::Plan;
using gpukm::Progress;
using gpukm::Table;

// valgrind collects from its first instruction to its last, and writes a file when it returns.
extern "C" __attribute__((noinline)) void counted(const std::function<void()>& kernel) {
  kernel();
  asm volatile("");
}

namespace {

void count(const std::string& name, int64_t steps, const std::function<void()>& kernel) {
  std::printf("%s: %lld\n", name.c_str(), static_cast<long long>(steps));
  std::fflush(stdout);
  counted(kernel);
}

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// Rows around k centroids that stand `apart` from each other, or together in crowds that integers cannot separate.
template <class X>
struct Data {
  int64_t n, d, k;
  std::vector<X> x, c;
  std::vector<double> center;
  std::vector<int32_t> labels;

  Data(int64_t n_, int64_t d_, int64_t k_, double apart, int64_t crowd = 1)
      : n(n_), d(d_), k(k_), center(size_t(d_)), labels(size_t(n_)) {
    Draws draws(uint64_t(n * 1000003 + d * 1009 + k));
    for (int64_t j = 0; j < k; ++j)
      for (int64_t f = 0; f < d; ++f)
        c.push_back(j % crowd ? X(double(c[size_t((j - 1) * d + f)]) + 4e-3 * draws.bell()) : X(apart * draws.bell()));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = draws.below(k);
      for (int64_t f = 0; f < d; ++f) x.push_back(X(double(c[size_t(j * d + f)]) + draws.bell()));
    }
  }
  Frame frame() const {
    double radius = 0;
    for (const X v : x) radius = std::fmax(radius, std::fabs(double(v)));
    return {center.data(), radius};
  }
  int64_t values() const { return n * d; }
  int64_t pairs() const { return n * k; }
};

template <class X>
void assign(const std::string& name, const Ops<X>& ops, Data<X> data) {
  count(name + ", a row and centroid", data.pairs(), [&] {
    void* prepared = ops.prepare(data.c.data(), data.k, data.d, data.frame());
    ops.assign(data.x.data(), data.n, prepared, data.labels.data(), 1);
    ops.release(prepared);
  });
}

// Bounds are made by the second call, since centroids that stay show that they pay.
void track(const Ops<float>& ops) {
  Data<float> data(4096, 32, 400, 8.0);
  std::vector<int32_t> group_of;
  for (int64_t j = 0; j < data.k; ++j) group_of.push_back(int32_t(j / 40));
  void* tracker = ops.track_start(data.n, data.d, data.k, 10, group_of.data(), When::never, When::never);
  const auto call = [&](Plan expected, bool movers) {
    Progress progress;
    ops.track(data.x.data(), data.c.data(), data.frame(), tracker, data.labels.data(), data.labels.data(), &progress, 1);
    demand(progress.plan == expected && (progress.movers > 0) == movers, "tracking took another way than it is counted for");
  };
  call(Plan::plain, false);
  count("track, bounds made, a row and centroid", data.pairs(), [&] { call(Plan::fill, false); });
  for (float& v : data.c) v *= 1 + 0x1p-10f;
  count("track, bounds followed, a row", data.n, [&] { call(Plan::follow, false); });
  for (int64_t j = 0; j < data.k; j += 40)
    for (int64_t f = 0; f < data.d; ++f) data.c[size_t(j * data.d + f)] = data.c[size_t((j + 1) % data.k * data.d + f)] + 2;
  count("track, one centroid of each group jumps, a row", data.n, [&] { call(Plan::follow, true); });
  ops.track_stop(tracker);
}

// Rows are sorted by the second call, and settled box by box.
void boxes(const Ops<float>& ops) {
  Data<float> data(16384, 3, 40, 4.0);
  const std::vector<int32_t> group_of(size_t(data.k), 0);
  void* tracker = ops.track_start(data.n, data.d, data.k, 0, group_of.data(), When::always, When::never);
  const auto call = [&](Plan expected) {
    Progress progress;
    ops.track(data.x.data(), data.c.data(), data.frame(), tracker, data.labels.data(), data.labels.data(), &progress, 1);
    demand(progress.plan == expected, "tracking took another way than it is counted for");
  };
  call(Plan::plain);
  count("boxes, made, a row", data.n, [&] { call(Plan::boxes); });
  for (float& v : data.c) v *= 1 + 0x1p-6f;
  count("boxes, centroids moved, a row", data.n, [&] { call(Plan::boxes); });
  count("boxes, centroids stayed, a row", data.n, [&] { call(Plan::boxes); });
  ops.track_stop(tracker);
}

// Rows get heads in the second call, and are labelled by them from then on.
void heads(const Ops<float>& ops) {
  Data<float> data(2048, 64, 200, 1.5);
  const std::vector<int32_t> group_of(size_t(data.k), 0);
  void* tracker = ops.track_start(data.n, data.d, data.k, 0, group_of.data(), When::never, When::always);
  const auto call = [&](Plan expected) {
    Progress progress;
    ops.track(data.x.data(), data.c.data(), data.frame(), tracker, data.labels.data(), data.labels.data(), &progress, 1);
    demand(progress.plan == expected, "tracking took another way than it is counted for");
  };
  call(Plan::plain);
  count("heads, made, a row", data.n, [&] { call(Plan::heads); });
  count("heads, a row and centroid", data.pairs(), [&] { call(Plan::heads); });
  ops.track_stop(tracker);
}

void sums(const Ops<float>& ops) {
  Data<float> data(4096, 16, 64, 4.0);
  Draws draws(1);
  for (int32_t& label : data.labels) label = int32_t(draws.below(data.k));
  std::vector<int32_t> after = data.labels;
  for (size_t i = 0; i < after.size(); i += 16) after[i] = int32_t(draws.below(data.k));
  const size_t sums = size_t(data.k * data.d), rows = size_t(data.n);
  std::vector<double> scales(size_t(data.d), 0x1p60), weights(rows, 0.5), out(rows), nearest(rows, 1.0), low(16), high(16);
  std::vector<int64_t> hi(sums), lo(sums), counts(size_t(data.k)), w_hi(size_t(data.k)), w_lo(size_t(data.k));
  const float* x = data.x.data();
  const auto accumulate = [&](const std::vector<int32_t>& labels, const int32_t* previous, const double* w) {
    ops.accumulate(x, w, data.n, data.d, data.k, labels.data(), previous, scales.data(), 0x1p60, hi.data(), lo.data(),
                   counts.data(), w ? w_hi.data() : nullptr, w ? w_lo.data() : nullptr, 1);
  };
  count("sums of all rows, a value", data.values(), [&] { accumulate(data.labels, nullptr, nullptr); });
  count("sums of weighted rows, a value", data.values(), [&] { accumulate(data.labels, nullptr, weights.data()); });
  count("sums, one row of sixteen moves, a row", data.n, [&] { accumulate(after, data.labels.data(), nullptr); });

  std::vector<uint64_t> bins(gpukm::kSumBins);
  count("total of distances, a value", data.values(),
        [&] { ops.total(x, nullptr, data.n, data.d, data.c.data(), data.labels.data(), bins.data(), 1); });
  count("distances, a value", data.values(),
        [&] { ops.distances(x, data.n, data.d, data.c.data(), data.labels.data(), out.data(), 1); });
  count("range of columns, a value", data.values(), [&] { ops.column_range(x, data.n, data.d, low.data(), high.data(), 1); });

  // Seeding by k-means++: a few candidates a step, and the distance to the nearest seed.
  std::vector<int64_t> potentials(4);
  count("seeding, potentials, a value and candidate", 4 * data.values(), [&] {
    ops.potentials(x, nullptr, data.n, data.d, data.c.data(), 4, nearest.data(), 0x1p30, potentials.data(), 1);
  });
  count("seeding, nearest distances, a value", data.values(),
        [&] { ops.lower(x, data.n, data.d, data.c.data(), 1, nearest.data(), 1); });
}

void batch(const Ops<float>& ops) {
  constexpr int64_t kProblems = 4, kRows = 500, kIterations = 5;
  Data<float> data(kProblems * kRows, 16, 8, 1.0);
  const size_t problems = size_t(kProblems), clusters = size_t(kProblems * data.k);
  std::vector<int64_t> offsets, order, n_iter(problems), best(problems), rechecked(problems), counts(clusters);
  std::vector<uint64_t> seeds;
  for (int64_t b = 0; b <= kProblems; ++b) offsets.push_back(b * kRows);
  for (int64_t b = 0; b < kProblems; ++b) {
    order.push_back(b);
    seeds.push_back(uint64_t(b));
  }
  std::vector<uint8_t> solved(problems), constant(problems * size_t(data.d));
  std::vector<float> centroids(clusters * size_t(data.d));
  std::vector<double> inertia(problems), total(problems), weights(clusters), history(problems * kIterations * 4);
  std::vector<int32_t> stop(problems);
  Batch<float> b{};
  b.x = data.x.data();
  b.offsets = offsets.data();
  b.order = order.data();
  b.n_problems = kProblems;
  b.d = data.d;
  b.k = data.k;
  b.seeds = seeds.data();
  b.trials = 4;
  b.n_init = 1;
  b.max_iter = b.capacity = kIterations;
  b.interrupted = [] { return false; };
  b.solved = solved.data();
  b.centroids = centroids.data();
  b.labels = data.labels.data();
  b.inertia = inertia.data();
  b.total_weight = total.data();
  b.n_iter = n_iter.data();
  b.best_init = best.data();
  b.rechecked = rechecked.data();
  b.stop = stop.data();
  b.counts = counts.data();
  b.weights = weights.data();
  b.constant = constant.data();
  b.history = history.data();
  count("small fits of five iterations, a row", data.n, [&] { ops.batch(b, 1); });
  for (int64_t i = 0; i < kProblems; ++i)
    demand(solved[size_t(i)] && n_iter[size_t(i)] == kIterations, "a small fit went another way than it is counted for");
}

// Candidates among rows that have a centre in every second cluster.
void pool(const Ops<float>& ops) {
  Data<float> data(4096, 32, 256, 2.0);
  void* prepared = ops.prepare(data.c.data(), data.k / 2, data.d, data.frame());
  std::vector<double> nearest(size_t(data.n)), second(size_t(data.n));
  ops.assign_two(data.x.data(), data.n, prepared, data.labels.data(), nearest.data(), second.data(), 1);
  ops.release(prepared);
  std::vector<int64_t> rows, chosen(64);
  for (int64_t i = 0; i < 512; ++i) rows.push_back(8 * i);
  void* pool = ops.pool_start(data.n, data.d);
  count("starts, candidates scored, a row and candidate", data.n * int64_t(rows.size()), [&] {
    ops.pool_add(pool, data.x.data(), data.frame(), nearest.data(), rows.data(), int64_t(rows.size()), 1);
  });
  count("starts, a choice", int64_t(chosen.size()), [&] {
    const int64_t found = ops.pool_choose(pool, nullptr, 0x1p30, data.labels.data(), nearest.data(), data.k,
                                          int64_t(chosen.size()), INT64_MAX, chosen.data(), 1);
    demand(found == int64_t(chosen.size()), "fewer centres were chosen than are counted");
  });
  ops.pool_stop(pool);
}

}  // namespace

int main() {
  const Table* table = gpukm::choose(std::getenv("GPUKM_ISA"));
  if (!table) return 77;  // this unit does not run here
#if defined(__clang__)
  std::printf("compiler: Clang %d\n", __clang_major__);
#else
  std::printf("compiler: GNU %d\n", __GNUC__);
#endif
  const Ops<float>& ops = table->f32;
  assign("assign, 2 features", ops, Data<float>(8192, 2, 100, 16.0));
  assign("assign, 5 features", ops, Data<float>(4096, 5, 96, 8.0));
  assign("assign, 16 features", ops, Data<float>(4096, 16, 64, 4.0));
  assign("assign, 16 features in float64", table->f64, Data<double>(2048, 16, 64, 4.0));
  assign("assign, 64 features", ops, Data<float>(2048, 64, 256, 4.0));
  assign("assign, 64 features, pairs to recheck", ops, Data<float>(2048, 64, 256, 4.0, 2));
  assign("assign, 64 features, crowds too dense for integers", ops, Data<float>(4096, 64, 256, 4.0, 256));
  track(ops);
  boxes(ops);
  heads(ops);
  sums(ops);
  pool(ops);
  batch(ops);
  return 0;
}
