// Whole fits of many small problems, a block each: what gpukm.functional.kmeans does, step by step and bit by bit. What
// the door of a fit may refuse (values that are not finite, too few rows) is left to it: such a problem stays unsolved.
//
// Long functions are not inlined: a compiler would take six times as long over the kernel, at its first use.
#include "batch_lloyd.cuh"
#include "batch_seed.cuh"

// What came of a start.
struct Made {
  double inertia;  // infinity where it is not finite
  long long rechecked;
  int n_iter, stop;  // a place in gpukm.core.result.StopReason
};

// From the centroids of a start to the final ones. `lines` gets `capacity` lines of history: inertia, shift, rows
// moved, empty clusters.
__device__ inline Made iterate(const Rows& rows, Clusters& c, int max_iter, double tol, bool spherical, double* lines,
                               int capacity, Block& block) {
  const int n = rows.n, d = rows.d;
  Made made = {0.0, 0, 0, -1};
  for (int i = threadIdx.x; i < n; i += blockDim.x) rows.own[i] = -1;
  for (int v = threadIdx.x; v < c.k * d; v += blockDim.x) c.high[v] = c.low[v] = 0;
  for (int j = threadIdx.x; j < c.k; j += blockDim.x) c.counts[j] = c.weight_high[j] = c.weight_low[j] = 0;
  __syncthreads();
  double tolerance = 0.0;
  bool same = false;
  while (made.stop < 0) {
    const long long moved = assign(rows, c, &made.rechecked, block);
    int n_empty, filled = 0;
    const double inertia = rows.spread + weigh(rows, c, spherical, &n_empty, block);
    if (made.n_iter++ == 0) tolerance = tol * mean_variance(rows, c);
    if (n_empty) filled = fill_empty(rows, c, block);
    const double shift = update(rows, c, spherical, &same);
    if (filled) empty_again(rows, c, filled);
    if (threadIdx.x == 0 && made.n_iter <= capacity) {
      double* line = lines + 4ll * (made.n_iter - 1);
      line[0] = inertia < 0 ? 0.0 : inertia, line[1] = shift, line[2] = double(moved), line[3] = double(n_empty);
    }
    if (same)
      made.stop = 0;
    else if (shift <= tolerance && tol > 0)
      made.stop = 1;
    else if (made.n_iter == max_iter)
      made.stop = 2;
  }
  // Labels belong to the centroids before the last update, and are those of the new ones only where none changed.
  if (!same) assign(rows, c, &made.rechecked, block);
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    rows.values[i] = times_weight(rows, i, row_distance(rows.columns + i, n, c.centers + rows.own[i] * d, d));
  __syncthreads();
  made.inertia = exact_total(rows.values, n, block);
  return made;
}

// Problem p has `sizes[p]` rows from `firsts[p]` on, n_rows in all; `start` and `weight` may be null. `tile` is how
// many centroids shared memory has room for, beside the power of two not below k of numbers in float64. Memory to work
// in has no particular values: `columns` of the shape of x; `values`, `own`, an entry a row; `sums` (n_problems, 2 k d + 3 k);
// `features` (n_problems, 3 d + the power of two not below d); `places` (n_problems, 4 k); `lines` as `history`.
//
// Results are those of gpukm.backends.batch.Fits, and `history` (n_problems, capacity, 4). `numbers` (n_problems, 2)
// holds inertia and total weight, `facts` (n_problems, 5), zero at first, whether it is solved, iterations, the best
// start, rows rechecked, and why it stopped.
extern "C" __global__ void __launch_bounds__(256, 2)
    solve(const row_t* x, const double* weight, const long long* firsts, const int* sizes,
          const unsigned long long* seeds, const wide_t* start, int n_problems, int d, int k, int trials, int n_init,
          int max_iter, double tol, int spherical, int capacity, int tile, wide_t* columns, double* values, int* own,
          wide_t* centers, long long* sums, double* features, int* places, double* lines, wide_t* centroids, int* labels,
          double* numbers, long long* facts, long long* counts, double* weights, unsigned char* constant,
          double* history) {
  __shared__ Block block;
  int size = 1, width = 1;
  while (size < k) size *= 2;
  while (width < d) width *= 2;
  const int kd = k * d;
  for GPUKM_SHARE (p, n_problems) {
    const long long first = firsts[p];
    Rows rows = {};
    rows.n = sizes[p], rows.d = d, rows.x = x + first * d, rows.weight = weight ? weight + first : nullptr;
    rows.columns = columns + first * d, rows.values = values + first, rows.own = own + first;
    rows.reference = features + p * (3 * d + width);
    rows.scales = rows.reference + d, rows.units = rows.scales + d, rows.work = rows.units + d;
    Clusters c = {};
    c.k = k, c.size = size, c.room = tile;
    c.centers = centers + p * kd, c.high = sums + p * (2ll * kd + 3 * k), c.low = c.high + kd;
    c.counts = c.low + kd, c.weight_high = c.counts + k, c.weight_low = c.weight_high + k;
    c.empty = places + 4ll * p * k, c.moved = c.empty + k;
    int *const chosen = c.moved + k, *const tried = chosen + k;
    __syncthreads();  // the problem before may still be read
    if (rows.n < k || !look(rows, constant + p * d, block)) continue;

    long long* const fact = facts + 5 * p;
    double* const line = lines + 4 * p * capacity;
    double best = infinity();
    bool finite = true;
    for (int number = 0; number < n_init && finite; ++number) {
      if (start) {
        for (int v = threadIdx.x; v < kd; v += blockDim.x) c.centers[v] = start[p * kd + v];
        __syncthreads();
      } else {
        const unsigned long long seed = number ? draw(seeds[p], kRestart, number) : seeds[p];
        start_from(rows, k, trials, seed, c.centers, chosen, tried, block);
      }
      const Made made = iterate(rows, c, max_iter, tol, spherical, line, capacity, block);
      finite = made.inertia < infinity();
      if (!(made.inertia < best)) continue;
      best = made.inertia;
      for (int v = threadIdx.x; v < kd; v += blockDim.x) centroids[p * kd + v] = c.centers[v];
      for (int i = threadIdx.x; i < rows.n; i += blockDim.x) labels[first + i] = rows.own[i];
      for (int j = threadIdx.x; j < k; j += blockDim.x) {
        counts[p * k + j] = c.counts[j];
        weights[p * k + j] = weight_of(rows, c, j);
      }
      for (int v = threadIdx.x; v < 4 * min(made.n_iter, capacity); v += blockDim.x)
        history[4 * p * capacity + v] = line[v];
      if (threadIdx.x == 0) {
        numbers[2 * p] = made.inertia, numbers[2 * p + 1] = rows.total_weight;
        fact[1] = made.n_iter, fact[2] = number, fact[3] = made.rechecked, fact[4] = made.stop;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) fact[0] = finite;
  }
}
