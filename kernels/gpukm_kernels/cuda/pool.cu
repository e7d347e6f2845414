// Candidates for centres: which rows each is nearer to than any centre so far, and the greedy choice among them.
//
// A screen makes pairs of a row and a candidate that may be nearer, D decides, and candidate j keeps the rows that are left,
// with D, at starts[j] .. starts[j] + counts[j] - 1 of `rows` and `distances`. The order within such a list is free: a gain
// is a sum of integers.
#include "screen.cuh"
#include "share.cuh"

// Lists all rows for a screen, row i at place i, with the score that no candidate exceeds whose D is below nearest[i]:
// kernels/README.md derives it.
extern "C" __global__ void begin(const row_t* x, const double* center, double scale, const double* nearest,
                                 float* threshold, long long* listed, unsigned long long* n_listed,
                                 unsigned long long* n_pairs, long long n, int d) {
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3;
  for GPUKM_SHARE (block, (n + groups - 1) / groups) {
    const long long at = block * groups + group, row = at < n ? at : n - 1;
    double square = 0.0;
    for (int f = threadIdx.x & 7; f < d; f += 8) {
      const double v = (double(x[row * d + f]) - center[f]) * scale;
      square += v * v;
    }
    square = lane_tree(square);
    if (at < n && (threadIdx.x & 7) == 0) {
      // Twice what the sum above may err by, and what these lines may.
      const double less = 1 - (d + 16) * 0x1p-52, more = 1 + 0x1p-50;
      double t = 0.5 * (nearest[at] * scale * scale * more - square * less);
      t += fabs(t) * 0x1p-22 + 0x1p-126;
      threshold[at] = t < 0x1p127 ? float(t) : infinite();
      listed[at] = at;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *n_listed = static_cast<unsigned long long>(n), *n_pairs = 0;
}

// D of every pair, or infinity where a centre is as near; counts[j] += the others of candidate j.
extern "C" __global__ void measure(const row_t* x, const wide_t* candidates, const double* nearest, const int* pair_rows,
                                   const int* pair_candidates, double* pair_distances, int* counts, long long n,
                                   int d) {
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3;
  for GPUKM_SHARE (block, (n + groups - 1) / groups) {
    const long long at = block * groups + group, i = at < n ? at : n - 1;
    const long long row = pair_rows[i], candidate = pair_candidates[i];
    const double v = lane_distance(x + row * d, candidates + candidate * d, d);
    if (at < n && (threadIdx.x & 7) == 0) {
      const bool nearer = v < nearest[row];
      pair_distances[at] = nearer ? v : infinity();
      if (nearer) atomicAdd(counts + candidate, 1);
    }
  }
}

// Puts pairs that are left into the lists of their candidates; `counts` are zero before.
extern "C" __global__ void fill(const int* pair_rows, const int* pair_candidates, const double* pair_distances,
                                const long long* starts, int* counts, int* rows, double* distances, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const double v = pair_distances[i];
    if (!(v < infinity())) continue;
    const int candidate = pair_candidates[i];
    const long long to = starts[candidate] + atomicAdd(counts + candidate, 1);
    rows[to] = pair_rows[i], distances[to] = v;
  }
}

// Copies lists to other places, a warp a list.
extern "C" __global__ void move(const long long* starts, const int* counts, const int* rows, const double* distances,
                                const long long* to_starts, int* to_rows, double* to_distances, int m) {
  const int warps = blockDim.x >> 5;
  for (long long j = static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5); j < m;
       j += static_cast<long long>(gridDim.x) * warps) {
    const long long from = starts[j], to = to_starts[j];
    for (int i = threadIdx.x & 31; i < counts[j]; i += 32)
      to_rows[to + i] = rows[from + i], to_distances[to + i] = distances[from + i];
  }
}

// Leaves in every list the rows that the candidate is still nearer to, and adds up what it would gain; a warp a candidate.
extern "C" __global__ void look(const double* nearest, const double* weight, double scale, const long long* starts,
                                int* counts, int* rows, double* distances, long long* gains, int m) {
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (long long j = static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5); j < m;
       j += static_cast<long long>(gridDim.x) * warps) {
    const long long start = starts[j], end = start + counts[j];
    long long kept = start, gain = 0;
    for (long long first = start; first < end; first += 32) {
      const long long at = first + lane;
      const int row = at < end ? rows[at] : 0;
      const double v = at < end ? distances[at] : infinity(), before = nearest[row];
      const bool still = v < before;
      // All lanes have read by now; places to write to are none that will be read.
      const unsigned left = __ballot_sync(kAll, still);
      if (still) {
        const long long to = kept + __popc(left & ((1u << lane) - 1));
        rows[to] = row, distances[to] = v;
        gain += share_of(weight, row, before, scale) - share_of(weight, row, v, scale);
      }
      kept += __popc(left);
    }
    gain = warp_sum(gain);
    if (lane == 0) counts[j] = int(kept - start), gains[j] = gain;
  }
}

// A candidate by what it gains at most: the largest is above, of equals the first.
struct Top {
  long long gain = 0;
  int at = 0x7FFFFFFF;

  __device__ void join(const Top& o) {
    if (o.gain > gain || (o.gain == gain && o.at < at)) gain = o.gain, at = o.at;
  }
  // Of all lanes, each of which gets it.
  __device__ void exchange() {
    for (int step = 16; step > 0; step >>= 1) {
      Top o;
      o.gain = __shfl_xor_sync(kAll, gain, step), o.at = __shfl_xor_sync(kAll, at, step);
      join(o);
    }
  }
};

// Chooses candidates one by one, each time the one of the largest gain, in one block of up to 1024 threads. Gains only
// fall: the largest one known is looked at again, and taken where it stays the largest. A thread knows the top of `each`
// candidates in a row, a warp that of its threads, so that what has changed is found again by one warp.
//
// `state`: how many were chosen, what they gained together, whether that is all. It ends after so many `steps` at most, to
// be launched again. gains[j] may be above what candidate j gains now.
extern "C" __global__ void __launch_bounds__(1024)
    choose(double* nearest, int* labels, const double* weight, double scale, const long long* starts, int* counts,
           const int* rows, const double* distances, long long* gains, int* chosen, long long* state, int m, int first,
           int most, long long enough, int steps) {
  __shared__ long long top_gains[32], sums[32];
  __shared__ int top_places[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const int each = (m + int(blockDim.x) - 1) / int(blockDim.x);
  Top own;
  for (long long j = static_cast<long long>(threadIdx.x) * each; j < (threadIdx.x + 1ll) * each && j < m; ++j)
    own.join({gains[j], int(j)});
  Top top = own;
  top.exchange();
  if (lane == 0) top_gains[warp] = top.gain, top_places[warp] = top.at;
  int count = int(state[0]), looked = -1;
  long long gained = state[1];
  bool over = false;
  for (int step = 0; step < steps; ++step) {
    __syncthreads();
    top = Top();
    if (lane < warps) top = {top_gains[lane], top_places[lane]};
    top.exchange();
    over = !top.gain || count == most || gained >= enough;
    if (over) break;
    const long long start = starts[top.at], end = start + counts[top.at];
    long long sum = 0;
    // Where it is the one that was just looked at, it stayed the largest.
    for (long long i = start + threadIdx.x; top.at != looked && i < end; i += blockDim.x) {
      const int row = rows[i];
      const double v = distances[i], before = nearest[row];
      if (v < before) sum += share_of(weight, row, before, scale) - share_of(weight, row, v, scale);
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const long long gain = top.at == looked ? top.gain : warp_sum(lane < warps ? sums[lane] : 0);
    const bool take = gain == top.gain;
    looked = top.at;
    if (take) {
      for (long long i = start + threadIdx.x; i < end; i += blockDim.x) {
        const int row = rows[i];
        const double v = distances[i];
        if (v < nearest[row]) nearest[row] = v, labels[row] = first + count;
      }
      if (threadIdx.x == 0) chosen[count] = top.at, counts[top.at] = 0;
      ++count, gained += gain;
    }
    const int owner = top.at / each;
    if (owner >> 5 == warp) {
      if (lane == 0) gains[top.at] = take ? 0 : gain;
      __syncwarp();
      Top changed;
      for (int j = owner * each + lane; j < (owner + 1) * each && j < m; j += 32) changed.join({gains[j], j});
      changed.exchange();
      if (lane == (owner & 31)) own = changed;
      top = own;
      top.exchange();
      if (lane == 0) top_gains[warp] = top.gain, top_places[warp] = top.at;
    }
  }
  if (threadIdx.x == 0) state[0] = count, state[1] = gained, state[2] = over;
}
