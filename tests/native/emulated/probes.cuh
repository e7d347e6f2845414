// What probes.cu includes: shared memory in templates, and the types that files have in common.
#pragma once

typedef GPUKM_ROW row_t;

// What shared memory of a template holds when it is first read.
template <class T>
__device__ T first_seen(T v) {
  __shared__ T kept[8];
  const T seen = kept[threadIdx.x];
  kept[threadIdx.x] = v;
  return seen;
}
