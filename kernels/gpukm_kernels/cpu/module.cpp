// Python's view of the kernels. Arrays come C-contiguous and checked by gpukm.backends.cpu; the GIL is released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <omp.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "dispatch.h"

namespace nb = nanobind;
using gpukm::Counts;
using gpukm::Frame;
using gpukm::Ops;
using gpukm::Table;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

const Table& table() {
  static const Table* chosen = [] {
    const char* forced = std::getenv("GPUKM_ISA");
    const Table* t = gpukm::choose(forced);
    if (!t) throw std::runtime_error("GPUKM_ISA=" + std::string(forced) + " is unknown or does not run on this processor");
    return t;
  }();
  return *chosen;
}

template <class X>
const Ops<X>& ops();
template <>
const Ops<float>& ops<float>() {
  return table().f32;
}
template <>
const Ops<double>& ops<double>() {
  return table().f64;
}

// As many threads as are asked for; else what OpenMP allows, but few for little work: waking a thread costs more than it
// brings there, and a great deal more where other programs use its processor.
constexpr double kThreadWork = 1 << 21;  // simple operations
int team(int threads, double work) {
  if (threads > 0) return threads;
  const int most = omp_get_max_threads();
  return work < most * kThreadWork ? int(work / kThreadWork) + 1 : most;
}
template <class A>
double values(const A& a) {
  return double(a.size());
}

// Centroids packed by one instruction set.
template <class X>
struct Centroids {
  void* packed;
  int64_t k, d;
  Centroids(In<X> c, In<double> center, double radius) : k(int64_t(c.shape(0))), d(int64_t(c.shape(1))) {
    nb::gil_scoped_release release;
    packed = ops<X>().prepare(c.data(), k, d, Frame{center.data(), radius});
  }
  ~Centroids() { ops<X>().release(packed); }
  Centroids(const Centroids&) = delete;
};

// Rows followed through the iterations of a fit.
template <class X>
struct Tracker {
  void* state;
  int64_t n, d, k;
  gpukm::Progress progress;
  Tracker(int64_t n_, int64_t d_, int64_t groups, In<int32_t> group_of, int boxes, int heads)
      : n(n_), d(d_), k(int64_t(group_of.shape(0))) {
    state = ops<X>().track_start(n, d, k, groups, group_of.data(), gpukm::When(boxes), gpukm::When(heads));
  }
  ~Tracker() { ops<X>().track_stop(state); }
  Tracker(const Tracker&) = delete;

  int64_t assign(In<X> x, In<X> centroids, In<double> center, double radius, In<int32_t> before, Out<int32_t> labels,
                 int threads) {
    if (int64_t(x.shape(0)) != n || int64_t(x.shape(1)) != d || int64_t(centroids.shape(0)) != k)
      throw std::invalid_argument("a tracker follows the rows and the number of centroids it was made for");
    nb::gil_scoped_release release;
    return ops<X>()
        .track(x.data(), centroids.data(), Frame{center.data(), radius}, state, before.data(), labels.data(), &progress,
               team(threads, values(x) * double(k)))
        .rechecked;
  }
};

// Rows that may become centres.
template <class X>
struct Pool {
  void* state;
  int64_t n, d;
  Pool(int64_t n_, int64_t d_) : n(n_), d(d_) { state = ops<X>().pool_start(n, d); }
  ~Pool() { ops<X>().pool_stop(state); }
  Pool(const Pool&) = delete;

  void add(In<X> x, In<double> center, double radius, In<double> nearest, In<int64_t> rows, int threads) {
    nb::gil_scoped_release release;
    ops<X>().pool_add(state, x.data(), Frame{center.data(), radius}, nearest.data(), rows.data(), int64_t(rows.size()),
                      team(threads, values(x) * values(rows)));
  }
  int64_t choose(nb::object w, double scale, Out<int32_t> labels, Out<double> nearest, int64_t first, int64_t enough,
                 Out<int64_t> chosen, int threads) {
    const double* weights = w.is_none() ? nullptr : nb::cast<In<double>>(w).data();
    nb::gil_scoped_release release;
    return ops<X>().pool_choose(state, weights, scale, labels.data(), nearest.data(), first, int64_t(chosen.size()),
                                enough, chosen.data(), team(threads, 8 * values(nearest)));
  }
};

// Whether Python was told to stop (Ctrl-C), looked up ten times a second at most.
bool interrupted() {
  using Clock = std::chrono::steady_clock;
  static thread_local Clock::time_point next{};
  const Clock::time_point now = Clock::now();
  if (now < next) return false;
  next = now + std::chrono::milliseconds(100);
  nb::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

template <class X>
void bind(nb::module_& m, const char* centroids_name, const char* tracker_name, const char* pool_name) {
  nb::class_<Tracker<X>>(m, tracker_name)
      .def(nb::init<int64_t, int64_t, int64_t, In<int32_t>, int, int>())
      .def("assign", &Tracker<X>::assign)
      .def_prop_ro("scored", [](const Tracker<X>& t) { return t.progress.scored; })
      .def_prop_ro("pairs", [](const Tracker<X>& t) { return t.progress.pairs; })
      .def_prop_ro("movers", [](const Tracker<X>& t) { return t.progress.movers; })
      .def_prop_ro("plan", [](const Tracker<X>& t) { return int(t.progress.plan); });
  nb::class_<Pool<X>>(m, pool_name)
      .def(nb::init<int64_t, int64_t>())
      .def("add", &Pool<X>::add)
      .def("choose", &Pool<X>::choose, nb::arg("w").none(), nb::arg("scale"), nb::arg("labels"), nb::arg("nearest"),
           nb::arg("first"), nb::arg("enough"), nb::arg("chosen"), nb::arg("threads"));
  nb::class_<Centroids<X>>(m, centroids_name).def(nb::init<In<X>, In<double>, double>());
  m.def("assign", [](In<X> x, const Centroids<X>& c, Out<int32_t> labels, int threads) {
    nb::gil_scoped_release release;
    Counts counts = ops<X>().assign(x.data(), int64_t(x.shape(0)), c.packed, labels.data(),
                                    team(threads, values(x) * double(c.k)));
    return counts.rechecked;
  });
  m.def("assign_two", [](In<X> x, const Centroids<X>& c, Out<int32_t> labels, Out<double> nearest,
                         Out<double> second, int threads) {
    nb::gil_scoped_release release;
    ops<X>().assign_two(x.data(), int64_t(x.shape(0)), c.packed, labels.data(), nearest.data(), second.data(),
                        team(threads, values(x) * double(c.k)));
  });
  m.def("distances", [](In<X> x, In<X> c, In<int32_t> labels, Out<double> out, int threads) {
    nb::gil_scoped_release release;
    ops<X>().distances(x.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), c.data(), labels.data(), out.data(),
                       team(threads, 2 * values(x)));
  });
  m.def(
      "total",
      [](In<X> x, nb::object w, In<X> c, nb::object labels, Out<uint64_t> bins, int threads) {
        const double* weights = w.is_none() ? nullptr : nb::cast<In<double>>(w).data();
        const int32_t* chosen = labels.is_none() ? nullptr : nb::cast<In<int32_t>>(labels).data();
        if (int(bins.size()) != gpukm::kSumBins) throw std::invalid_argument("bins has the wrong length");
        nb::gil_scoped_release release;
        return ops<X>().total(x.data(), weights, int64_t(x.shape(0)), int64_t(x.shape(1)), c.data(), chosen,
                              bins.data(), team(threads, 2 * values(x)));
      },
      nb::arg("x"), nb::arg("w").none(), nb::arg("c"), nb::arg("labels").none(), nb::arg("bins"),
      nb::arg("threads"));
  m.def("column_range", [](In<X> x, Out<double> low, Out<double> high, int threads) {
    nb::gil_scoped_release release;
    ops<X>().column_range(x.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), low.data(), high.data(),
                          team(threads, values(x)));
  });
  m.def("cross", [](In<X> x, In<X> p, Out<double> out, int threads) {
    nb::gil_scoped_release release;
    ops<X>().cross(x.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), p.data(), int64_t(p.shape(0)), out.data(),
                   team(threads, 2 * values(x) * double(p.shape(0))));
  });
  m.def("lower", [](In<X> x, In<X> p, Out<double> nearest, int threads) {
    nb::gil_scoped_release release;
    ops<X>().lower(x.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), p.data(), int64_t(p.shape(0)), nearest.data(),
                   team(threads, 2 * values(x) * double(p.shape(0))));
  });
  m.def(
      "potentials",
      [](In<X> x, nb::object w, In<X> p, In<double> nearest, double scale, Out<int64_t> out, int threads) {
        const double* weights = w.is_none() ? nullptr : nb::cast<In<double>>(w).data();
        nb::gil_scoped_release release;
        ops<X>().potentials(x.data(), weights, int64_t(x.shape(0)), int64_t(x.shape(1)), p.data(),
                            int64_t(p.shape(0)), nearest.data(), scale, out.data(),
                            team(threads, 2 * values(x) * double(p.shape(0))));
      },
      nb::arg("x"), nb::arg("w").none(), nb::arg("p"), nb::arg("nearest"), nb::arg("scale"), nb::arg("out"),
      nb::arg("threads"));
  m.def(
      "accumulate",
      [](In<X> x, nb::object w, In<int32_t> labels, nb::object previous, In<double> scales, double w_scale,
         Out<int64_t> hi, Out<int64_t> lo, Out<int64_t> counts, nb::object w_hi, nb::object w_lo, int threads) {
        const double* weights = w.is_none() ? nullptr : nb::cast<In<double>>(w).data();
        const int32_t* before = previous.is_none() ? nullptr : nb::cast<In<int32_t>>(previous).data();
        int64_t* hi_w = w_hi.is_none() ? nullptr : nb::cast<Out<int64_t>>(w_hi).data();
        int64_t* lo_w = w_lo.is_none() ? nullptr : nb::cast<Out<int64_t>>(w_lo).data();
        nb::gil_scoped_release release;
        return ops<X>().accumulate(x.data(), weights, int64_t(x.shape(0)), int64_t(x.shape(1)),
                                   int64_t(counts.shape(0)), labels.data(), before, scales.data(), w_scale, hi.data(),
                                   lo.data(), counts.data(), hi_w, lo_w,
                                   team(threads, 8 * (values(x) + values(labels))));
      },
      nb::arg("x"), nb::arg("w").none(), nb::arg("labels"), nb::arg("previous").none(), nb::arg("scales"),
      nb::arg("w_scale"), nb::arg("hi"), nb::arg("lo"), nb::arg("counts"), nb::arg("w_hi").none(),
      nb::arg("w_lo").none(), nb::arg("threads"));
  m.def("means", [](In<int64_t> hi, In<int64_t> lo, In<double> weights, In<double> units, In<X> previous, In<double> r,
                    Out<X> mean, Out<double> shift, Out<double> gain, int threads) {
    nb::gil_scoped_release release;
    ops<X>().means(hi.data(), lo.data(), weights.data(), int64_t(previous.shape(0)), int64_t(previous.shape(1)),
                   units.data(), previous.data(), r.data(), mean.data(), shift.data(), gain.data(),
                   team(threads, 16 * values(previous)));
  });
  m.def(
      "batch",
      [](In<X> x, nb::object w, In<int64_t> offsets, In<int64_t> order, In<uint64_t> seeds, nb::object start,
         int64_t trials, int64_t n_init, int64_t max_iter, double tol, bool spherical, Out<uint8_t> solved,
         Out<X> centroids, Out<int32_t> labels, Out<double> inertia, Out<double> total_weight, Out<int64_t> n_iter,
         Out<int64_t> best_init, Out<int64_t> rechecked, Out<int32_t> stop, Out<int64_t> counts, Out<double> weights,
         Out<uint8_t> constant, Out<double> history, int threads) {
        gpukm::Batch<X> batch{};
        batch.x = x.data();
        batch.w = w.is_none() ? nullptr : nb::cast<In<double>>(w).data();
        batch.offsets = offsets.data();
        batch.order = order.data();
        batch.n_problems = int64_t(order.shape(0));
        batch.d = int64_t(x.shape(1));
        batch.k = int64_t(centroids.shape(1));
        batch.seeds = seeds.data();
        batch.start = start.is_none() ? nullptr : nb::cast<In<X>>(start).data();
        batch.trials = trials;
        batch.n_init = n_init;
        batch.max_iter = max_iter;
        batch.tol = tol;
        batch.spherical = spherical;
        batch.capacity = int64_t(history.shape(1));
        batch.interrupted = interrupted;
        batch.solved = solved.data();
        batch.centroids = centroids.data();
        batch.labels = labels.data();
        batch.inertia = inertia.data();
        batch.total_weight = total_weight.data();
        batch.n_iter = n_iter.data();
        batch.best_init = best_init.data();
        batch.rechecked = rechecked.data();
        batch.stop = stop.data();
        batch.counts = counts.data();
        batch.weights = weights.data();
        batch.constant = constant.data();
        batch.history = history.data();
        bool done;
        {
          nb::gil_scoped_release release;
          done = ops<X>().batch(batch, team(threads, 8 * values(x)));
        }
        if (!done) throw nb::python_error();
      },
      nb::arg("x"), nb::arg("w").none(), nb::arg("offsets"), nb::arg("order"), nb::arg("seeds"),
      nb::arg("start").none(), nb::arg("trials"), nb::arg("n_init"), nb::arg("max_iter"), nb::arg("tol"),
      nb::arg("spherical"), nb::arg("solved"), nb::arg("centroids"), nb::arg("labels"), nb::arg("inertia"),
      nb::arg("total_weight"), nb::arg("n_iter"), nb::arg("best_init"), nb::arg("rechecked"), nb::arg("stop"),
      nb::arg("counts"), nb::arg("weights"), nb::arg("constant"), nb::arg("history"), nb::arg("threads"));
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.def("isa", [] { return std::string(table().name); });
  m.attr("SUM_BINS") = gpukm::kSumBins;
  m.def("max_threads", [] { return omp_get_max_threads(); });
  bind<float>(m, "CentroidsF32", "TrackerF32", "PoolF32");
  bind<double>(m, "CentroidsF64", "TrackerF64", "PoolF64");
}
