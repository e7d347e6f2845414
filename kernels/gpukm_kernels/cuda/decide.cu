// Rows that a screen could not settle: pairs of such a row and a centroid that may be its nearest, decided by D.
//
// A screen lists rows, each with a bound that its nearest centroid does not exceed; a second sweep over the listed rows
// turns them into pairs (place in the list, centroid). Where pairs find no room the row is marked, and D to all
// centroids decides. Lists and their lengths stay on the device: programs share them, however long they are.
#include "device.cuh"

// Room for pairs may be too small for what was counted.
__device__ inline long long there_are(const unsigned long long* count, long long room) {
  const unsigned long long n = *count;
  return n < static_cast<unsigned long long>(room) ? static_cast<long long>(n) : room;
}

// Of listed rows: no distance yet, no label, not marked.
extern "C" __global__ void begin(const long long* listed, const unsigned long long* n_listed, long long room,
                                 unsigned long long* best, unsigned long long* second, unsigned char* crowded,
                                 int* labels) {
  const long long n = there_are(n_listed, room);
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    best[i] = ordered_bits(infinity());
    if (second) second[i] = ordered_bits(infinity());
    crowded[i] = 0;
    labels[listed[i]] = 0x7FFFFFFF;
  }
}

// D of every pair, and the smallest of each row.
extern "C" __global__ void measure(const row_t* x, const wide_t* c, const long long* listed, const int* pair_places,
                                   const int* pair_centroids, const unsigned long long* n_pairs, long long room,
                                   double* distances, unsigned long long* best, int d) {
  const long long n = there_are(n_pairs, room);
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3;
  for GPUKM_SHARE (block, (n + groups - 1) / groups) {
    const long long at = block * groups + group, i = at < n ? at : n - 1;
    const int place = pair_places[i];
    const double v = lane_distance(x + listed[place] * d, c + static_cast<long long>(pair_centroids[i]) * d, d);
    if (at < n && (threadIdx.x & 7) == 0) {
      distances[at] = v;
      atomicMin(best + place, ordered_bits(v));
    }
  }
}

// The smallest distance of each row to another centroid than its own.
extern "C" __global__ void runner_up(const long long* listed, const int* pair_places, const int* pair_centroids,
                                     const unsigned long long* n_pairs, long long room, const double* distances,
                                     const unsigned char* crowded, const int* labels, unsigned long long* second) {
  const long long n = there_are(n_pairs, room);
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const int place = pair_places[i];
    if (!crowded[place] && pair_centroids[i] != labels[listed[place]])
      atomicMin(second + place, ordered_bits(distances[i]));
  }
}

// The lowest centroid of those at the smallest distance; of marked rows, a block each, by D to all k centroids, which
// `tally[1]` counts. `second` and `tally` may be null.
extern "C" __global__ void choose(const row_t* x, const wide_t* c, const long long* listed,
                                  const unsigned long long* n_listed, long long rows, const int* pair_places,
                                  const int* pair_centroids, const unsigned long long* n_pairs, long long room,
                                  const double* distances, const unsigned char* crowded, int* labels,
                                  unsigned long long* best, unsigned long long* second, unsigned long long* tally,
                                  int k, int d) {
  __shared__ double near[2][32];
  __shared__ int index[32];
  const long long pairs = there_are(n_pairs, room), n = there_are(n_listed, rows);
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < pairs;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const int place = pair_places[i];
    if (!crowded[place] && ordered_bits(distances[i]) == best[place])
      atomicMin(labels + listed[place], pair_centroids[i]);
  }
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3;
  for GPUKM_SHARE (place, n) {
    if (!crowded[place]) continue;
    const long long row = listed[place];
    double least = infinity(), next = infinity();
    int label = 0x7FFFFFFF;
    // Ascending within a group, so that the first of equal distances has the lowest index.
    for (int j = group; j < (k + groups - 1) / groups * groups; j += groups) {
      const double v = lane_distance(x + row * d, c + static_cast<long long>(j < k ? j : k - 1) * d, d);
      if (j >= k) continue;
      if (v < least) {
        next = least, least = v, label = j;
      } else {
        next = fmin(next, v);
      }
    }
    if ((threadIdx.x & 7) == 0) near[0][group] = least, near[1][group] = next, index[group] = label;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int g = 1; g < groups; ++g) {
        const bool closer = near[0][g] < least || (near[0][g] == least && index[g] < label);
        next = fmin(next, closer ? fmin(least, near[1][g]) : near[0][g]);
        if (closer) least = near[0][g], label = index[g];
      }
      labels[row] = label;
      best[place] = ordered_bits(least);
      if (second) second[place] = ordered_bits(next);
      if (tally) atomicAdd(tally + 1, 1ull);
    }
    __syncthreads();
  }
}
