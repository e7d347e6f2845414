// All kernels of one instruction set, in a namespace of its own. The including unit defines GPUKM_ISA (the
// namespace and name), GPUKM_VECTOR_BYTES and GPUKM_BLOCK, the centroids of a register tile.
//
// Nothing here may instantiate templates of the standard library: the linker would keep one copy of them for all
// units, and it could be the one with instructions that this processor lacks.

#include "common.h"
#include "dispatch.h"

namespace gpukm {
namespace GPUKM_ISA {
namespace {

constexpr int kBlock = GPUKM_BLOCK;

// One test builds with a half, to see that bounds which are too small are found out.
#ifndef GPUKM_BOUND_FACTOR
#define GPUKM_BOUND_FACTOR 1
#endif
constexpr double kBoundFactor = GPUKM_BOUND_FACTOR;

// Inlined into one function, the steps of a fit would spill each other's registers.
#define GPUKM_APART __attribute__((noinline))

#include "simd.inl.h"

#include "exact.inl.h"

#include "screen.inl.h"

#include "tree.inl.h"

#include "costs.inl.h"

#include "heads.inl.h"

#include "bounds.inl.h"

#include "track.inl.h"

#include "batch_sums.inl.h"

#include "batch_rows.inl.h"

#include "batch_score.inl.h"

#include "batch_seed.inl.h"

#include "batch_lloyd.inl.h"

#include "batch.inl.h"
#include "pool.inl.h"

template <class X>
constexpr Ops<X> ops() {
  return {prepare<X>, release<X>, assign<X>, assign_two<X>, track_start<X>, track_stop<X>, track<X>,
          distances<X>, total<X>, column_range<X>, cross<X>, lower<X>, potentials<X>, accumulate<X>, means<X>, batch<X>,
          pool_start<X>, pool_stop<X>, pool_add<X>, pool_choose<X>};
}

#define GPUKM_STRING_(x) #x
#define GPUKM_STRING(x) GPUKM_STRING_(x)
const Table kTable = {GPUKM_STRING(GPUKM_ISA), ops<float>(), ops<double>()};

}  // namespace
}  // namespace GPUKM_ISA
}  // namespace gpukm
