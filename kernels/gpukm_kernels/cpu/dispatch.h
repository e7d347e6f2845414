// The table of functions that every instruction set fills in, and what it stands for. No Python in here.
#pragma once

#include <cstdint>

namespace gpukm {

// Where screening puts its origin and how far data reaches from it.
struct Frame {
  const double* center;  // [D], representable in the data's type
  double radius;         // >= |x - center| for most rows; larger values only cost speed
};

// Counters of one assign call.
struct Counts {
  int64_t rechecked = 0;  // rows whose label D had to decide
  int64_t compared = 0;   // D evaluations made for them
};

// What a tracked assignment does: label all rows without bounds, do so and leave bounds, follow those there are, walk over
// rows sorted into boxes, or compare the first principal directions of rows and centroids.
enum class Plan : int { plain, fill, follow, boxes, heads };

// Whether rows may be sorted into boxes, or get heads: where it pays, at once, or never.
enum class When : int { paying, always, never };

// How a tracked assignment went.
struct Progress {
  int64_t scored = 0;  // pairs scored of a row and a group of centroids, or with boxes or heads a centroid
  int64_t pairs = 0;   // of so many
  int64_t movers = 0;  // centroids that all rows were scored against
  Plan plan = Plan::plain;
};

// Words of 32 bits that hold any sum of finite non-negative float64, in units of 2^-1126.
constexpr int kSumBins = 70;

// Many small problems of d features and k clusters, and what their fits give. Problem b has the rows
// [offsets[b], offsets[b + 1]); `order` says which to solve and in which order.
template <class X>
struct Batch {
  const X* x;
  const double* w;  // or null
  const int64_t* offsets;
  const int64_t* order;
  int64_t n_problems;  // in `order`
  int64_t d, k;
  const uint64_t* seeds;  // a problem
  const X* start;         // [b][k][d] or null
  int64_t trials;         // candidates of a step of k-means++, 0 for random rows
  int64_t n_init, max_iter;
  double tol;
  bool spherical;
  int64_t capacity;      // iterations at most that `history` takes
  bool (*interrupted)();  // asked now and then, by the calling thread

  uint8_t* solved;    // a problem: 0 where the door of a fit has to look at it
  X* centroids;       // [b][k][d]
  int32_t* labels;    // a row
  double* inertia;    // a problem, as the next five
  double* total_weight;
  int64_t* n_iter;
  int64_t* best_init;
  int64_t* rechecked;
  int32_t* stop;      // 0 converged, 1 tolerance, 2 limit of iterations
  int64_t* counts;    // [b][k]
  double* weights;    // [b][k]
  uint8_t* constant;  // [b][d]
  double* history;    // [b][capacity] of inertia, shift, rows moved, empty clusters
};

// Rows are row-major and contiguous. X is float or double. D(x, c) is defined in exact.inl.h.
template <class X>
struct Ops {
  // Packs K centroids of D features; the result is freed with `release`. Copies what it needs.
  void* (*prepare)(const X* centroids, int64_t k, int64_t d, Frame frame);
  void (*release)(void* prepared);
  // labels[i] = argmin_j D(x_i, c_j), ties to the lowest j.
  Counts (*assign)(const X* x, int64_t n, const void* prepared, int32_t* labels, int threads);
  // The same, with D to the nearest and to the second nearest centroid.
  Counts (*assign_two)(const X* x, int64_t n, const void* prepared, int32_t* labels, double* nearest, double* second,
                       int threads);
  // State for assigning the same n rows to moving centroids, which are kept in groups of neighbours.
  void* (*track_start)(int64_t n, int64_t d, int64_t k, int64_t groups, const int32_t* group_of, When boxes,
                       When heads);
  void (*track_stop)(void* tracker);
  // As assign, skipping what the state rules out; `before` holds the result of the call before, and may be `labels`.
  Counts (*track)(const X* x, const X* centroids, Frame frame, void* tracker, const int32_t* before, int32_t* labels,
                  Progress* progress, int threads);
  // out[i] = D(x_i, c_labels[i]).
  void (*distances)(const X* x, int64_t n, int64_t d, const X* c, const int32_t* labels, double* out, int threads);
  // sum_i fl64(w_i D(x_i, c_labels[i])) = sum_b bins[b] 2^(32 b - 1126), exactly; w may be null, and so may labels,
  // which then are all zero. False where a term is not finite.
  bool (*total)(const X* x, const double* w, int64_t n, int64_t d, const X* c, const int32_t* labels, uint64_t* bins,
                int threads);
  // Smallest and largest value of each feature; both NaN where a value is not finite.
  void (*column_range)(const X* x, int64_t n, int64_t d, double* low, double* high, int threads);
  // out[i * m + j] = D(x_i, p_j).
  void (*cross)(const X* x, int64_t n, int64_t d, const X* p, int64_t m, double* out, int threads);
  // nearest[i] = min(nearest[i], min_j D(x_i, p_j)).
  void (*lower)(const X* x, int64_t n, int64_t d, const X* p, int64_t m, double* nearest, int threads);
  // out[j] += sum_i rint(w_i * min(nearest_i, D(x_i, p_j)) * scale); w may be null.
  void (*potentials)(const X* x, const double* w, int64_t n, int64_t d, const X* p, int64_t m, const double* nearest,
                     double scale, int64_t* out, int threads);
  // Adds rows to hi/lo [k][d], counts [k] and, with weights, w_hi/w_lo [k]; with `previous` only rows that moved,
  // which also leave their old sums. Returns the rows touched.
  int64_t (*accumulate)(const X* x, const double* w, int64_t n, int64_t d, int64_t k, const int32_t* labels,
                        const int32_t* previous, const double* scales, double w_scale, int64_t* hi, int64_t* lo,
                        int64_t* counts, int64_t* w_hi, int64_t* w_lo, int threads);
  // mean[j] = X(S_j / weight_j) where the weight is positive, else previous[j]; S_jf = fl64(hi 2^32 + lo) unit_f.
  // shift[j] = D(mean_j, previous_j). gain[j] = sum_f c_f (W c_f - 2 (S_f - W r_f)) with c = previous_j - r, in the lanes
  // and the tree of D.
  void (*means)(const int64_t* hi, const int64_t* lo, const double* weights, int64_t k, int64_t d, const double* units,
                const X* previous, const double* r, X* mean, double* shift, double* gain, int threads);
  // Solves problems, one a thread; false where it was interrupted.
  bool (*batch)(const Batch<X>& problems, int threads);
  // Candidates for centres, chosen greedily among n rows x, with weights w or null. nearest[i] is D to the nearest centre
  // so far.
  void* (*pool_start)(int64_t n, int64_t d);
  void (*pool_stop)(void* pool);
  // Takes m rows as candidates, and notes which rows they are nearer to than nearest[i].
  void (*pool_add)(void* pool, const X* x, Frame frame, const double* nearest, const int64_t* rows, int64_t m,
                   int threads);
  // Chooses at most `most` of them, one by one, that lower the sum of rint(w_i nearest_i scale) most, the first taken of
  // equals, until they lowered it by `enough`. They become the centres first, first + 1, ..: lowers nearest[i], and puts
  // them in labels[i]. Returns how many there were.
  int64_t (*pool_choose)(void* pool, const double* w, double scale, int32_t* labels, double* nearest, int64_t first,
                         int64_t most, int64_t enough, int64_t* chosen, int threads);
};

struct Table {
  const char* name;
  Ops<float> f32;
  Ops<double> f64;
};

const Table* table_portable();
#if defined(__x86_64__)
const Table* table_avx2();
const Table* table_vnni();
const Table* table_avx512();
#elif defined(__aarch64__)
const Table* table_neon();
#endif

// The best table this processor runs, or the one GPUKM_ISA names; null for a name unknown or not runnable here.
const Table* choose(const char* forced);

}  // namespace gpukm
