// Checks the CPU kernels without Python, so that units of other processors can be cross-compiled and run in an emulator.
//
// Every unit that runs here is compared, bit for bit, with the definitions written out plainly below, on one thread and on
// three. The last line is a digest of what the definitions gave: one number on every machine.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dispatch.h"
#include "draws.h"

using gpukm::When;
using gpukm::Counts;
using gpukm::Draws;
using gpukm::Frame;
using gpukm::Ops;
using gpukm::Progress;
using gpukm::Table;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
int64_t checks = 0, failures = 0, pairs_skipped = 0;
uint64_t digest = 0xcbf29ce484222325u;

void into_digest(const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) digest = (digest ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
}

template <class T>
void into_digest(const std::vector<T>& v) {
  into_digest(v.data(), v.size() * sizeof(T));
}

// Equal bits; a few of the differences are printed.
template <class T>
void expect(const std::string& what, const std::vector<T>& got, const std::vector<T>& expected) {
  ++checks;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (__builtin_memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    if (++failures <= 20)
      std::printf("FAILED %s: at %zu got %.17g, expected %.17g\n", what.c_str(), i, double(got[i]), double(expected[i]));
    return;
  }
}

void expect_true(const std::string& what, bool holds) {
  ++checks;
  if (!holds && ++failures <= 20) std::printf("FAILED %s\n", what.c_str());
}

enum class Kind { bell, offset, outlier, whole, copies, tiny, huge };

struct Case {
  const char* name;
  Kind kind;
  int64_t n, d, k, groups;
};

// Off every tile; each number of features that has a kernel of its own; more than one tile of centroids; many true ties.
const Case kCases[] = {
    {"one", Kind::bell, 1, 1, 1, 1},
    {"d1", Kind::bell, 301, 1, 7, 2},
    {"d2", Kind::bell, 333, 2, 50, 6},
    {"d3, whole numbers", Kind::whole, 700, 3, 40, 5},
    {"d4", Kind::bell, 199, 4, 13, 3},
    {"d8", Kind::offset, 250, 8, 70, 7},
    {"d16", Kind::bell, 177, 16, 33, 4},
    {"d17", Kind::bell, 211, 17, 40, 5},
    {"one centroid", Kind::bell, 100, 20, 1, 1},
    {"offset", Kind::offset, 200, 24, 30, 4},
    {"outlier", Kind::outlier, 200, 24, 30, 4},
    {"whole numbers", Kind::whole, 300, 20, 24, 3},
    {"copies of rows and of centroids", Kind::copies, 260, 31, 30, 5},
    {"tiny", Kind::tiny, 150, 19, 20, 3},
    {"huge", Kind::huge, 150, 19, 20, 3},
    {"tiny, few features", Kind::tiny, 150, 5, 20, 3},
    {"huge, few features", Kind::huge, 150, 5, 20, 3},
    {"tiny, bounds followed", Kind::tiny, 600, 64, 260, 2},
    {"many groups", Kind::bell, 400, 32, 130, 13},
    {"tiles", Kind::bell, 40, 130, 420, 10},
    {"chunks", Kind::bell, 30, 1029, 9, 2},
};

template <class X>
struct Data {
  std::vector<X> x, c;
  std::vector<double> w, center;
  std::vector<int32_t> group_of;
  Frame frame;
};

template <class X>
X value(const Case& a, Draws& draws, int64_t row) {
  const double v = draws.bell();
  const bool wide = sizeof(X) == 8;
  switch (a.kind) {
    case Kind::offset: return X(v + 1e6);
    case Kind::outlier: return X(row == 7 ? v * 1e9 : v);
    case Kind::whole: return X(draws.below(4));
    case Kind::tiny: return X(v * (wide ? 0x1p-1030 : 0x1p-140));  // denormal, and its square is nothing
    case Kind::huge: return X(v * (wide ? 0x1p400 : 0x1p100));
    default: return X(v);
  }
}

template <class X>
Data<X> make(const Case& a) {
  Draws draws(uint64_t(a.n * 1000003 + a.d * 1009 + a.k));
  Data<X> data;
  data.x.resize(size_t(a.n * a.d));
  for (int64_t i = 0; i < a.n; ++i)
    for (int64_t f = 0; f < a.d; ++f)
      data.x[size_t(i * a.d + f)] =
          a.kind == Kind::copies && i >= 9 ? data.x[size_t(i % 9 * a.d + f)] : value<X>(a, draws, i);
  for (int64_t j = 0; j < a.k; ++j) {
    const int64_t from = draws.below(a.n);
    for (int64_t f = 0; f < a.d; ++f) data.c.push_back(data.x[size_t(from * a.d + f)]);
    data.group_of.push_back(int32_t(j * a.groups / a.k));
  }
  for (int64_t i = 0; i < a.n; ++i) data.w.push_back(double(draws.below(1000)) * 0x1p-8);
  // Any center representable in X will do: a row is one.
  double radius = 0;
  for (int64_t f = 0; f < a.d; ++f) data.center.push_back(double(data.x[size_t(f)]));
  for (int64_t i = 0; i < a.n; ++i)
    for (int64_t f = 0; f < a.d; ++f) {
      const double away = std::fabs(double(data.x[size_t(i * a.d + f)]) - data.center[size_t(f)]);
      radius = away > radius ? away : radius;
    }
  data.frame = {data.center.data(), radius};
  return data;
}

// D(x, c) by its definition.
template <class X>
double distance(const X* x, const X* c, int64_t d) {
  double lane[8] = {};
  for (int64_t f = 0; f < d; ++f) {
    const double difference = double(x[f]) - double(c[f]);
    lane[f % 8] += difference * difference;
  }
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

struct Truth {
  std::vector<double> all, nearest, second;
  std::vector<int32_t> labels;
};

template <class X>
Truth truth(const Case& a, const Data<X>& data, const std::vector<X>& c) {
  Truth t;
  for (int64_t i = 0; i < a.n; ++i) {
    double first = kInf, second = kInf;
    int32_t label = 0;
    for (int64_t j = 0; j < a.k; ++j) {
      const double v = distance(&data.x[size_t(i * a.d)], &c[size_t(j * a.d)], a.d);
      t.all.push_back(v);
      if (v < first) {
        second = first;
        first = v;
        label = int32_t(j);
      } else if (v < second) {
        second = v;
      }
    }
    t.labels.push_back(label);
    t.nearest.push_back(first);
    t.second.push_back(second);
  }
  into_digest(t.labels);
  into_digest(t.nearest);
  into_digest(t.second);
  return t;
}

// Centroids that move a little, not at all, and far.
template <class X>
std::vector<std::vector<X>> paths(const Case& a, const Data<X>& data) {
  std::vector<std::vector<X>> path{data.c};
  Draws draws(uint64_t(a.n + a.d + a.k));
  for (const double share : {1.0 / 16, 1.0 / 64, 0.0, 1.0, 1.0 / 256}) {
    std::vector<X> c = path.back();
    for (int64_t j = 0; j < a.k; ++j) {
      const int64_t to = draws.below(a.n);
      for (int64_t f = 0; f < a.d; ++f) {
        X& v = c[size_t(j * a.d + f)];
        v = X(v + X(share) * (data.x[size_t(to * a.d + f)] - v));
      }
    }
    path.push_back(c);
  }
  return path;
}

using Wide = __int128;

struct Sums {
  std::vector<int64_t> hi, lo, counts, w_hi, w_lo;
  Sums(int64_t k, int64_t d)
      : hi(size_t(k * d)), lo(size_t(k * d)), counts(size_t(k)), w_hi(size_t(k)), w_lo(size_t(k)) {}
  // How a sum is split in two is nobody's business.
  static std::vector<Wide> joined(const std::vector<int64_t>& hi, const std::vector<int64_t>& lo) {
    std::vector<Wide> out;
    for (size_t i = 0; i < hi.size(); ++i) out.push_back((Wide(hi[i]) << 32) + lo[i]);
    return out;
  }
};

// The power of two that takes a total of at most `most` to 2^81 at most.
double scale_for(double most) {
  int exponent = 0;
  std::frexp(most, &exponent);
  return most > 0 ? std::ldexp(1.0, std::fmin(81 - exponent, 1000)) : 1.0;
}

template <class X>
void check_sums(const std::string& name, const Case& a, const Data<X>& data, const Ops<X>& ops,
                const std::vector<int32_t>& first, const std::vector<int32_t>& then, int threads, bool into) {
  for (const bool weighted : {false, true}) {
    const double* w = weighted ? data.w.data() : nullptr;
    double most_weight = 0;
    for (int64_t i = 0; i < a.n; ++i) most_weight += weighted ? data.w[size_t(i)] : 1.0;
    std::vector<double> scales(size_t(a.d), 1.0);
    for (int64_t f = 0; f < a.d; ++f) {
      double largest = 0;
      for (int64_t i = 0; i < a.n; ++i) largest = std::fmax(largest, std::fabs(double(data.x[size_t(i * a.d + f)])));
      scales[size_t(f)] = scale_for(most_weight * largest);
    }
    const double w_scale = scale_for(most_weight);
    Sums sums(a.k, a.d);
    int64_t* w_hi = weighted ? sums.w_hi.data() : nullptr;
    int64_t* w_lo = weighted ? sums.w_lo.data() : nullptr;
    const std::vector<int32_t>* before = nullptr;
    for (const std::vector<int32_t>* labels : {&first, &then}) {
      int64_t expected_moves = 0;
      std::vector<Wide> expected(size_t(a.k * a.d)), expected_weight(size_t(a.k));
      std::vector<int64_t> expected_counts(size_t(a.k));
      for (int64_t i = 0; i < a.n; ++i) {
        const int64_t j = (*labels)[size_t(i)];
        expected_moves += !before || (*before)[size_t(i)] != j;
        ++expected_counts[size_t(j)];
        const double weight = weighted ? data.w[size_t(i)] : 1.0;
        if (weighted) expected_weight[size_t(j)] += Wide(std::rint(weight * w_scale));
        for (int64_t f = 0; f < a.d; ++f)
          expected[size_t(j * a.d + f)] +=
              Wide(std::rint(weight * double(data.x[size_t(i * a.d + f)]) * scales[size_t(f)]));
      }
      const int64_t moves =
          ops.accumulate(data.x.data(), w, a.n, a.d, a.k, labels->data(), before ? before->data() : nullptr,
                         scales.data(), w_scale, sums.hi.data(), sums.lo.data(), sums.counts.data(), w_hi, w_lo, threads);
      const std::string what = name + (weighted ? ", weighted" : "") + (before ? ", moved" : ", all");
      expect_true(what + ": rows moved", moves == expected_moves);
      expect(what + ": sums", Sums::joined(sums.hi, sums.lo), expected);
      expect(what + ": counts", sums.counts, expected_counts);
      if (weighted) expect(what + ": weights", Sums::joined(sums.w_hi, sums.w_lo), expected_weight);
      if (into) into_digest(expected);
      before = labels;
    }
  }
}

// Adds v >= 0 to words of 32 bits that count units of 2^-1126, bit by bit.
void add_exactly(std::vector<uint64_t>& bins, double v) {
  for (int bit = 1126 + 1023; bit >= 0 && v > 0; --bit) {
    const double unit = bit >= 52 ? std::ldexp(1.0, bit - 1126) : 0.0;
    if (unit == 0.0 || v < unit) continue;
    v -= unit;
    bins[size_t(bit / 32)] += uint64_t(1) << (bit % 32);
    for (size_t i = size_t(bit / 32); bins[i] >> 32; ++i) {
      bins[i + 1] += bins[i] >> 32;
      bins[i] &= 0xffffffffu;
    }
  }
}

template <class X>
void check_distances(const std::string& name, const Case& a, const Data<X>& data, const Ops<X>& ops, const Truth& t,
                     int threads) {
  std::vector<double> out(size_t(a.n)), all(size_t(a.n * a.k));
  ops.distances(data.x.data(), a.n, a.d, data.c.data(), t.labels.data(), out.data(), threads);
  expect(name + ": distances", out, t.nearest);
  std::vector<uint64_t> bins(gpukm::kSumBins), expected_bins(gpukm::kSumBins);
  expect_true(name + ": total is finite", ops.total(data.x.data(), data.w.data(), a.n, a.d, data.c.data(),
                                                    t.labels.data(), bins.data(), threads));
  for (int64_t i = 0; i < a.n; ++i) add_exactly(expected_bins, data.w[size_t(i)] * t.nearest[size_t(i)]);
  expect(name + ": total", bins, expected_bins);
  std::vector<double> low(size_t(a.d)), high(size_t(a.d)), least(size_t(a.d), kInf), most(size_t(a.d), -kInf);
  for (int64_t i = 0; i < a.n; ++i)
    for (int64_t f = 0; f < a.d; ++f) {
      least[size_t(f)] = std::fmin(least[size_t(f)], double(data.x[size_t(i * a.d + f)]));
      most[size_t(f)] = std::fmax(most[size_t(f)], double(data.x[size_t(i * a.d + f)]));
    }
  ops.column_range(data.x.data(), a.n, a.d, low.data(), high.data(), threads);
  expect(name + ": smallest values", low, least);
  expect(name + ": largest values", high, most);
  ops.cross(data.x.data(), a.n, a.d, data.c.data(), a.k, all.data(), threads);
  expect(name + ": cross", all, t.all);

  // Seeds so far: every other row knows a distance already.
  std::vector<double> known(size_t(a.n)), expected(size_t(a.n));
  for (int64_t i = 0; i < a.n; ++i) {
    known[size_t(i)] = i % 2 ? t.all[size_t(i * a.k + a.k / 2)] : kInf;
    expected[size_t(i)] = std::fmin(known[size_t(i)], t.nearest[size_t(i)]);
  }
  std::vector<double> nearest = known;
  ops.lower(data.x.data(), a.n, a.d, data.c.data(), a.k, nearest.data(), threads);
  expect(name + ": lower", nearest, expected);

  double largest = 0;
  for (const double v : t.all) largest = std::fmax(largest, v);
  const double scale = scale_for(largest * 4 * double(a.n)) * 0x1p-21;
  for (const bool weighted : {false, true}) {
    std::vector<int64_t> potentials(size_t(a.k)), totals(size_t(a.k));
    for (int64_t j = 0; j < a.k; ++j)
      for (int64_t i = 0; i < a.n; ++i) {
        const double v = std::fmin(known[size_t(i)], t.all[size_t(i * a.k + j)]);
        totals[size_t(j)] += int64_t(std::rint((weighted ? data.w[size_t(i)] : 1.0) * v * scale));
      }
    ops.potentials(data.x.data(), weighted ? data.w.data() : nullptr, a.n, a.d, data.c.data(), a.k, known.data(), scale,
                   potentials.data(), threads);
    expect(name + ": potentials", potentials, totals);
  }
}

template <class X>
void check_labels(const std::string& name, const Case& a, const Data<X>& data, const Ops<X>& ops, const Truth& t,
                  int threads) {
  std::vector<int32_t> labels(size_t(a.n), -1);
  std::vector<double> nearest(size_t(a.n)), second(size_t(a.n));
  void* prepared = ops.prepare(data.c.data(), a.k, a.d, data.frame);
  const Counts counts = ops.assign(data.x.data(), a.n, prepared, labels.data(), threads);
  expect(name + ": labels", labels, t.labels);
  expect_true(name + ": rechecked rows", counts.rechecked >= 0 && counts.rechecked <= a.n);
  labels.assign(size_t(a.n), -1);
  ops.assign_two(data.x.data(), a.n, prepared, labels.data(), nearest.data(), second.data(), threads);
  ops.release(prepared);
  expect(name + ": labels of two", labels, t.labels);
  expect(name + ": nearest", nearest, t.nearest);
  expect(name + ": second", second, t.second);
}

template <class X>
void check_track(const std::string& name, const Case& a, const Data<X>& data, const Ops<X>& ops,
                 const std::vector<std::vector<X>>& path, const std::vector<Truth>& truths, When boxes, When heads,
                 int threads) {
  void* tracker = ops.track_start(a.n, a.d, a.k, a.groups, data.group_of.data(), boxes, heads);
  std::vector<int32_t> labels(size_t(a.n), 0), before(size_t(a.n), 0);
  for (size_t step = 0; step < path.size(); ++step) {
    Progress progress;
    ops.track(data.x.data(), path[step].data(), data.frame, tracker, before.data(), labels.data(), &progress, threads);
    expect(name + ": tracked labels, step " + std::to_string(step), labels, truths[step].labels);
    expect_true(name + ": pairs", progress.scored >= 0 && progress.scored <= progress.pairs);
    pairs_skipped += progress.pairs - progress.scored;
    labels.swap(before);
  }
  ops.track_stop(tracker);
}

// Centres chosen from candidates, of which half come when some are chosen already.
constexpr int64_t kCandidates = 50, kFirstChoices = 3, kThenChoices = 6;

template <class X>
struct Choices {
  std::vector<int64_t> rows, chosen;  // candidates, and those that the definition chooses
  std::vector<double> before, after;  // D of each row to the nearest centre
  std::vector<int32_t> labels;        // and which it is: none of those chosen, or one of them
  double scale;

  Choices(const Case& a, const Data<X>& data, const double* w) {
    for (int64_t j = 0; j < kCandidates && j < a.n; ++j) rows.push_back((j * 37 + 5) % a.n);
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    const int64_t m = int64_t(rows.size());
    std::vector<std::vector<double>> to;
    double largest = 0;
    for (const int64_t row : rows) {
      to.emplace_back();
      for (int64_t i = 0; i < a.n; ++i) {
        to.back().push_back(distance(&data.x[size_t(i * a.d)], &data.x[size_t(row * a.d)], a.d));
        largest = std::fmax(largest, to.back().back());
      }
    }
    scale = scale_for(largest * 4 * double(a.n)) * 0x1p-21;
    // A third of the rows have a candidate that is nearer by next to nothing.
    for (int64_t i = 0; i < a.n; ++i)
      before.push_back(i % 3 ? to[0][size_t(i)] : std::nextafter(to[size_t(i / 3 % m)][size_t(i)], kInf));
    after = before;
    labels.assign(size_t(a.n), -1);
    for (int64_t step = 0; step < kFirstChoices + kThenChoices; ++step) {
      int64_t best = -1, most = 0;
      for (int64_t j = 0; j < (step < kFirstChoices ? m / 2 : m); ++j) {
        int64_t gain = 0;
        for (int64_t i = 0; i < a.n; ++i) {
          const double v = to[size_t(j)][size_t(i)], near = after[size_t(i)], weight = w ? w[i] : 1.0;
          if (v < near) gain += int64_t(std::rint(weight * near * scale)) - int64_t(std::rint(weight * v * scale));
        }
        if (gain > most) best = j, most = gain;
      }
      if (best < 0) continue;
      chosen.push_back(rows[size_t(best)]);
      for (int64_t i = 0; i < a.n; ++i)
        if (to[size_t(best)][size_t(i)] < after[size_t(i)]) {
          after[size_t(i)] = to[size_t(best)][size_t(i)];
          labels[size_t(i)] = int32_t(chosen.size()) - 1;
        }
    }
    into_digest(chosen);
    into_digest(after);
    into_digest(labels);
  }
};

template <class X>
void check_pool(const std::string& name, const Case& a, const Data<X>& data, const Ops<X>& ops, const double* w,
                const Choices<X>& expected, int threads) {
  std::vector<double> nearest = expected.before;
  std::vector<int32_t> labels(size_t(a.n), -1);
  std::vector<int64_t> chosen(size_t(kFirstChoices + kThenChoices));
  const int64_t m = int64_t(expected.rows.size()), half = m / 2;
  void* pool = ops.pool_start(a.n, a.d);
  ops.pool_add(pool, data.x.data(), data.frame, nearest.data(), expected.rows.data(), half, threads);
  int64_t found = ops.pool_choose(pool, w, expected.scale, labels.data(), nearest.data(), 0, kFirstChoices, INT64_MAX,
                                  chosen.data(), threads);
  ops.pool_add(pool, data.x.data(), data.frame, nearest.data(), expected.rows.data() + half, m - half, threads);
  found += ops.pool_choose(pool, w, expected.scale, labels.data(), nearest.data(), found, kThenChoices, INT64_MAX,
                           chosen.data() + found, threads);
  ops.pool_stop(pool);
  chosen.resize(size_t(found));
  expect(name + ": choices", chosen, expected.chosen);
  expect(name + ": nearest after choices", nearest, expected.after);
  expect(name + ": labels after choices", labels, expected.labels);
}

template <class X>
void check(const std::vector<const Table*>& tables, const Ops<X> Table::*member, const char* type) {
  for (const Case& a : kCases) {
    const Data<X> data = make<X>(a);
    const auto path = paths(a, data);
    std::vector<Truth> truths;
    for (const auto& c : path) truths.push_back(truth(a, data, c));
    const Choices<X> choices(a, data, nullptr), weighted(a, data, data.w.data());
    for (const Table* table : tables)
      for (const int threads : {1, 3}) {
        const Ops<X>& ops = table->*member;
        const std::string name =
            std::string(table->name) + ", " + type + ", " + a.name + ", " + std::to_string(threads) + " threads";
        check_labels(name, a, data, ops, truths[0], threads);
        check_distances(name, a, data, ops, truths[0], threads);
        check_sums(name, a, data, ops, truths[0].labels, truths[3].labels, threads, table == tables[0] && threads == 1);
        check_track(name, a, data, ops, path, truths, When::never, When::never, threads);
        check_pool(name, a, data, ops, nullptr, choices, threads);
        check_pool(name + ", weighted", a, data, ops, data.w.data(), weighted, threads);
        if (a.d <= 8) check_track(name + ", in boxes", a, data, ops, path, truths, When::always, When::never, threads);
        if (a.d > 1) check_track(name + ", by heads", a, data, ops, path, truths, When::never, When::always, threads);
      }
  }
}

// Kernels restore IEEE arithmetic where a caller has switched denormals off.
void check_flushed(const std::vector<const Table*>& tables) {
  for (const Case& a : kCases) {
    if (a.kind != Kind::tiny) continue;
    const Data<float> data = make<float>(a);
    const Truth t = truth(a, data, data.c);
    const auto path = paths(a, data);
    std::vector<Truth> truths;
    for (const auto& c : path) truths.push_back(truth(a, data, c));
    for (const Table* table : tables) {
      std::vector<int32_t> labels(size_t(a.n), -1);
#if defined(__x86_64__)
      const unsigned before = _mm_getcsr();
      _mm_setcsr(before | 0x8040u);
#elif defined(__aarch64__)
      uint64_t before;
      asm volatile("mrs %0, fpcr" : "=r"(before));
      asm volatile("msr fpcr, %0" ::"r"(before | uint64_t(1) << 24));
#endif
      // A first parallel region makes threads that have denormals off too.
      std::vector<double> low(size_t(a.d)), high(size_t(a.d));
      table->f32.column_range(data.x.data(), a.n, a.d, low.data(), high.data(), 3);
      void* prepared = table->f32.prepare(data.c.data(), a.k, a.d, data.frame);
      table->f32.assign(data.x.data(), a.n, prepared, labels.data(), 1);
      table->f32.release(prepared);
      const std::string name = std::string(table->name) + ", " + a.name + ", denormals switched off";
      check_track(name, a, data, table->f32, path, truths, When::never, When::never, 3);
      if (a.d <= 8) check_track(name + ", in boxes", a, data, table->f32, path, truths, When::always, When::never, 3);
      if (a.d > 1) check_track(name + ", by heads", a, data, table->f32, path, truths, When::never, When::always, 3);
#if defined(__x86_64__)
      _mm_setcsr(before);
#elif defined(__aarch64__)
      asm volatile("msr fpcr, %0" ::"r"(before));
#endif
      expect(std::string(table->name) + ", " + a.name + ": labels with denormals switched off", labels, t.labels);
    }
  }
}

// Labels of forty copies of x [d] against c [2][d]; screening would take the one that is not `nearer` but for its bounds.
void expect_adverse(const std::vector<const Table*>& tables, const std::string& form, const std::vector<float>& x,
                    const std::vector<float>& c, int32_t nearer) {
  constexpr int64_t kRows = 40;
  const int64_t d = int64_t(x.size());
  std::vector<float> rows;
  for (int64_t i = 0; i < kRows; ++i) rows.insert(rows.end(), x.begin(), x.end());
  const double first = distance(&x[0], &c[0], d), second = distance(&x[0], &c[size_t(d)], d);
  expect_true("adverse " + form + ": the nearer centroid is the one that seems farther", (second < first) == (nearer == 1));
  const std::vector<int32_t> expected(size_t(kRows), nearer);
  const std::vector<double> center(static_cast<size_t>(d));
  for (const Table* table : tables) {
    std::vector<int32_t> labels(size_t(kRows), -1);
    void* prepared = table->f32.prepare(c.data(), 2, d, Frame{center.data(), 1.0});
    table->f32.assign(rows.data(), kRows, prepared, labels.data(), 1);
    table->f32.release(prepared);
    expect(std::string(table->name) + ", adverse " + form, labels, expected);
  }
}

// Rows and centroids made so that every rounding of one score goes up and every one of the other goes down: the farther
// centroid seems nearer by almost all that the bounds allow for.
void check_adverse(const std::vector<const Table*>& tables) {
  constexpr double u = 0x1p-24;
  for (const bool product : {true, false}) {
    const int64_t d = product ? 512 : 16;
    std::vector<float> x(static_cast<size_t>(d)), c(size_t(2 * d));
    // Added to one, a term a little above u counts 2 u, and a term a little below it nothing.
    const float more = float(0x1p-12 * (1 + 0x1p-10)), less = float(0x1p-12 * (1 - (product ? 0x1p-11 : 0x1p-10)));
    for (int64_t f = 0; f < d; ++f) {
      x[size_t(f)] = !product ? 0.0f : f == 0 ? 1.0f : 0x1p-12f;
      const bool last = !product && f == d - 1;
      c[size_t(f)] = f == 0 ? 1.0f : last ? 0.0f : more;
      c[size_t(d + f)] = f == 0 ? 1.0f : last ? float(std::sqrt(0.9 * u)) : less;
    }
    expect_adverse(tables, product ? "product" : "difference", x, c, product ? 1 : 0);
  }
  // All values of the row but one are a little less than half an integer, and vanish; the centroids, whose values are
  // whole numbers of their unit 1 / 2000, stand on either side of what is lost.
  const size_t d = 530;
  std::vector<float> x(d, float(0.4999 / 32767)), c(2 * d, 1.0f);
  x[0] = 1.0f;
  for (size_t f = 0; f < d; ++f) c[d + f] = -1.0f;
  c[0] = 0.0f;
  c[d] = float(29 / 2000.0);
  expect_adverse(tables, "integers", x, c, 0);
}

// Labels of one small problem, from given starting centroids or, with two candidates a step, from those that it draws.
template <class X>
std::vector<int32_t> fit(const Ops<X>& ops, const std::vector<X>& rows, const std::vector<double>& w,
                         const std::vector<X>& start, int64_t k, int64_t d, uint64_t seed) {
  const int64_t n = int64_t(rows.size()) / d;
  const int64_t offsets[] = {0, n}, order[] = {0};
  gpukm::Batch<X> b{};
  b.x = rows.data();
  b.w = w.empty() ? nullptr : w.data();
  b.offsets = offsets;
  b.order = order;
  b.n_problems = 1;
  b.d = d;
  b.k = k;
  b.seeds = &seed;
  b.start = start.empty() ? nullptr : start.data();
  b.trials = start.empty() ? 2 : 0;
  b.n_init = 1;
  b.max_iter = 5;
  b.capacity = 5;
  b.interrupted = [] { return false; };
  uint8_t solved = 0;
  double inertia = 0, total_weight = 0;
  int64_t n_iter = 0, best_init = 0, rechecked = 0;
  int32_t stop = -1;
  std::vector<X> centroids(size_t(k * d));
  std::vector<int32_t> labels(size_t(n), -1);
  std::vector<int64_t> counts(static_cast<size_t>(k));
  std::vector<double> weights(static_cast<size_t>(k)), history(20);
  std::vector<uint8_t> constant(static_cast<size_t>(d));
  b.solved = &solved;
  b.centroids = centroids.data();
  b.labels = labels.data();
  b.inertia = &inertia;
  b.total_weight = &total_weight;
  b.n_iter = &n_iter;
  b.best_init = &best_init;
  b.rechecked = &rechecked;
  b.stop = &stop;
  b.counts = counts.data();
  b.weights = weights.data();
  b.constant = constant.data();
  b.history = history.data();
  expect_true("a small problem is solved", ops.batch(b, 1) && solved && stop == 0);
  return labels;
}

// Labels of rows that weigh nothing, around centroids that are rows of weight one and stay where they are.
std::vector<int32_t> fit_around(const Ops<float>& ops, const std::vector<float>& x, const std::vector<float>& c, int64_t d) {
  std::vector<float> rows = c;
  rows.insert(rows.end(), x.begin(), x.end());
  const size_t k = c.size() / size_t(d);
  std::vector<double> w(rows.size() / size_t(d), 0.0);
  for (size_t j = 0; j < k; ++j) w[j] = 1.0;
  std::vector<int32_t> labels = fit<float>(ops, rows, w, c, int64_t(k), d, 0);
  labels.erase(labels.begin(), labels.begin() + int64_t(k));
  return labels;
}

// The same for the screens of small problems: rows whose values vanish in integers, as above; and one so far out that
// integers cannot tell the centroids apart and difference scores, with roundings as above, have to.
void check_adverse_fits(const std::vector<const Table*>& tables) {
  constexpr size_t d = 16, kZeros = 60, kRows = 40;
  for (const bool integers : {true, false}) {
    std::vector<float> row(d), c(2 * d), x;
    for (size_t f = 0; f < d; ++f) {
      const float more = float(0x1p-12 * (1 + 0x1p-10)), less = float(0x1p-12 * (1 - 0x1p-10));
      row[f] = integers ? float(-0.4999 / 32700) : 0.0f;
      c[f] = integers ? -0.125f : f == 0 ? 1.0f : f == d - 1 ? 0.0f : more;
      c[d + f] = integers ? 0.125f * (1 - 2.25e-4f) : f == 0 ? 1.0f : f == d - 1 ? float(std::sqrt(0.9 * 0x1p-24)) : less;
    }
    x.resize(kZeros * d);  // the median
    for (size_t i = 0; i < kRows; ++i) x.insert(x.end(), row.begin(), row.end());
    x.resize(x.size() + d);
    x[x.size() - d] = integers ? 1.0f : 1e9f;
    std::vector<int32_t> expected;
    for (size_t i = 0; i < x.size(); i += d)
      expected.push_back(distance(&x[i], &c[d], d) < distance(&x[i], &c[0], d) ? 1 : 0);
    expect_true("adverse fits: the nearer centroid is the one that seems farther", expected[kZeros] == 0);
    for (const Table* table : tables)
      expect(std::string(table->name) + ", adverse fit, " + (integers ? "integers" : "difference"),
             fit_around(table->f32, x, c, int64_t(d)), expected);
  }
}

// Starts: rows at the origin, and two on either side of it that lose nearly the same potential to one another. Roundings of
// the nearer one's score go up and those of the other's down. What float64 makes of the same rows is right.
void check_adverse_starts(const std::vector<const Table*>& tables) {
  constexpr size_t d = 512, kZeros = 17;
  std::vector<float> x(kZeros * d);
  for (const bool nearer : {true, false})
    for (size_t f = 0; f < d; ++f) {
      const float more = float(0x1p-12 * (1 + 0x1p-20)), less = float(-0x1p-12 * (1 - 0x1p-20));
      x.push_back(nearer ? f == 0 ? 1.0f : f == d - 1 ? 0.0f : more
                         : f == 0 ? -1.0f : f == d - 1 ? float(std::sqrt(0.9 * 0x1p-24)) : less);
    }
  const std::vector<double> wide(x.begin(), x.end());
  expect_true("adverse starts: one row is nearer",
              distance(&wide[kZeros * d], &wide[0], d) < distance(&wide[(kZeros + 1) * d], &wide[0], d));
  for (const Table* table : tables) {
    std::vector<int32_t> found, expected;
    for (uint64_t seed = 0; seed < 32; ++seed) {
      const std::vector<int32_t> narrow = fit<float>(table->f32, x, {}, {}, 2, d, seed);
      const std::vector<int32_t> right = fit<double>(table->f64, wide, {}, {}, 2, d, seed);
      found.insert(found.end(), narrow.begin(), narrow.end());
      expected.insert(expected.end(), right.begin(), right.end());
    }
    expect(std::string(table->name) + ", adverse start", found, expected);
  }
}

}  // namespace

int main(int count, char** asked) {
  std::vector<const Table*> tables;
  for (const std::string name : {"portable", "avx2", "vnni", "avx512", "neon"}) {
    if (count > 1 && std::find(asked + 1, asked + count, name) == asked + count) continue;
    const Table* table = gpukm::choose(name.c_str());
    if (table) tables.push_back(table);
    std::printf("%s: %s\n", name.c_str(), table ? "runs here" : "does not run here");
  }
  // First, so that its threads are made while denormals are off.
  check_flushed(tables);
  check_adverse(tables);
  check_adverse_fits(tables);
  check_adverse_starts(tables);
  check<float>(tables, &Table::f32, "float32");
  check<double>(tables, &Table::f64, "float64");
  expect_true("tracking skips work", pairs_skipped > 0);
  std::printf("%lld checks, %lld failed\ndigest %016llx\n", static_cast<long long>(checks),
              static_cast<long long>(failures), static_cast<unsigned long long>(digest));
  return failures != 0;
}
