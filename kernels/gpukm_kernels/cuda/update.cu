// Order-free sums: each row adds integers to its cluster, so atomics in any order give the same bits.
#include "sums.cuh"

// Adds w x 2^s to the sums of each row's cluster, a warp a row, of rows whose label is not that of `before`: they leave their
// old cluster, unless it is negative. `before` then becomes the labels, and *moved grows by them. Low limbs are left for `carry`.
// Where *many (may be null) is above `few`, sums are zeroed instead, for sort.cu to add up all rows.
extern "C" __global__ void accumulate(const row_t* x, const double* weight, const int* labels, int* before,
                                      const double* scales, double weight_scale, long long* high, long long* low,
                                      long long* counts, long long* weight_high, long long* weight_low,
                                      unsigned long long* moved, const unsigned long long* many, unsigned long long few,
                                      long long n, int k, int d) {
  if (many && *many > few) {
    const long long values = static_cast<long long>(k) * d;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < values + k;
         i += static_cast<long long>(gridDim.x) * blockDim.x) {
      if (i < values) {
        high[i] = 0, low[i] = 0;
      } else {
        counts[i - values] = 0;
        if (weight_high) weight_high[i - values] = 0, weight_low[i - values] = 0;
      }
    }
    return;
  }
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  int seen = 0;
  // A warp looks at the labels of 32 rows at once, and goes through those that moved.
  for (long long first = (static_cast<long long>(blockIdx.x) * warps + (threadIdx.x >> 5)) * 32; first < n;
       first += static_cast<long long>(gridDim.x) * warps * 32) {
    const long long own = first + lane;
    const int label = own < n ? labels[own] : 0;
    const int old = own < n ? before[own] : -1;
    unsigned todo = __ballot_sync(kAll, own < n && label != old);
    if (own < n) before[own] = label;
    seen += __popc(todo);
    while (todo) {
      const int next = __ffs(int(todo)) - 1;
      todo &= todo - 1;
      const long long row = first + next;
      const long long to = __shfl_sync(kAll, label, next), from = __shfl_sync(kAll, old, next);
      const double w = weight ? weight[row] : 1.0;
      if (lane == 0) {
        add(counts + to, 1);
        if (from >= 0) add(counts + from, -1);
        if (weight) {
          long long hi, lo;
          split(w * weight_scale, &hi, &lo);
          add(weight_high + to, hi), add(weight_low + to, lo);
          if (from >= 0) add(weight_high + from, -hi), add(weight_low + from, -lo);
        }
      }
      for (int f = lane; f < d; f += 32) {
        const double v = double(x[row * d + f]);
        long long hi, lo;
        split((weight ? w * v : v) * scales[f], &hi, &lo);
        add(high + to * d + f, hi), add(low + to * d + f, lo);
        if (from >= 0) add(high + from * d + f, -hi), add(low + from * d + f, -lo);
      }
    }
  }
  if (lane == 0 && seen) atomicAdd(moved, static_cast<unsigned long long>(seen));
}

// What sums become, eight neighbouring lanes a cluster, as gpukm.backends.base.Backend.means has it. Limbs are carried
// in place. `units` (d,) are the inverse scales, `weight_unit` that of the weights; the limbs of weights are null where
// every row weighs one. *empty += clusters without weight; *changed becomes one where a centroid's bits are new. `mean` may
// be `previous`, which is kept in `kept` where that is not null. Nothing is done where *stop (may be null) is set.
extern "C" __global__ void means(long long* high, long long* low, const long long* counts, long long* weight_high,
                                 long long* weight_low, const double* units, double weight_unit, const wide_t* previous,
                                 const double* reference, wide_t* mean, wide_t* kept, double* shifts, double* gains,
                                 int* empty, int* changed, const int* stop, int k, int d) {
  if (stop && *stop) return;
  const int group = threadIdx.x >> 3, groups = blockDim.x >> 3, lane = threadIdx.x & 7;
  for GPUKM_SHARE (block, (k + groups - 1) / groups) {
    const long long at = block * groups + group, j = at < k ? at : k - 1;
    double w = double(counts[j]);
    if (weight_high) {
      long long hi = weight_high[j], lo = weight_low[j];
      carry(&hi, &lo);
      w = rounded(hi, lo) * weight_unit;
      __syncwarp();
      if (at < k && lane == 0) weight_high[j] = hi, weight_low[j] = lo;
    }
    double shift = 0.0, gain = 0.0;
    bool differs = false;
    for (int f = lane; f < d; f += 8) {
      const long long i = j * d + f;
      long long hi = high[i], lo = low[i];
      carry(&hi, &lo);
      const double s = rounded(hi, lo) * units[f];
      const wide_t old = previous[i], now = w > 0 ? wide_t(s / w) : old;
      const double c = double(old) - reference[f];
      gain += c * (w * c - 2.0 * (s - w * reference[f]));
      const double difference = double(now) - double(old);
      shift += difference * difference;
      if (at < k) {
        high[i] = hi, low[i] = lo, mean[i] = now;
        if (kept) kept[i] = old;
        // Zeros of either sign compare equal, and their bits differ.
        differs |= now != old || (now == wide_t(0) && signbit(double(now)) != signbit(double(old)));
      }
    }
    shift = lane_tree(shift), gain = lane_tree(gain);
    if (at < k && lane == 0) {
      shifts[at] = shift, gains[at] = gain;
      if (!(w > 0)) atomicAdd(empty, 1);
    }
    if (differs) *changed = 1;
  }
}
