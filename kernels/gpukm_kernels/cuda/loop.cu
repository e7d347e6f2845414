// Iterations that do not wait for the host: what it would decide between them.
//
// `control` holds: 0 whether to stop (1: nothing moved, or little; 2: a cluster is empty, which the host sees to),
// 1 iterations made, 2 clusters without weight, 3 whether a centroid changed. `counters` holds rows moved, rows rechecked,
// and how many moved in the iteration before.
#include "sums.cuh"

// Empties the lists of a screen, and counts what they held, unless `counters` or `tally` is null.
extern "C" __global__ void clear(unsigned long long* n_rows, unsigned long long* n_pairs, long long room,
                                 unsigned long long* counters, unsigned long long* tally) {
  const unsigned long long most = static_cast<unsigned long long>(room);
  if (counters) counters[1] += *n_rows;
  if (tally) tally[0] += *n_pairs < most ? *n_pairs : most;
  *n_rows = 0, *n_pairs = 0;
}

// Ends an iteration, in one block: writes its line of `history` (shift, gain, moved, rechecked, whether anything changed,
// or -1 where a cluster is empty) and says whether to go on. `size` is the power of two not below k.
extern "C" __global__ void __launch_bounds__(1024)
    commit(const double* shifts, const double* gains, double* work, int k, int size, int* control,
           unsigned long long* counters, double tolerance, double* history) {
  if (control[0]) return;
  fold(shifts, work, k, size);
  const double shift = work[0];
  __syncthreads();
  fold(gains, work, k, size);
  if (threadIdx.x) return;
  double* line = history + 5ll * control[1];
  line[0] = shift, line[1] = work[0], line[2] = double(counters[0]), line[3] = double(counters[1]);
  line[4] = control[2] ? -1.0 : control[3];
  if (control[2]) {
    control[0] = 2;
  } else {
    control[1] += 1;
    if (!control[3] || shift <= tolerance) control[0] = 1;
  }
  control[2] = control[3] = 0;
  // Beyond the end nothing moves.
  counters[2] = control[0] ? 0 : counters[0];
  counters[0] = counters[1] = 0;
}
