// 64-bit Arm: 32 registers of 4 floats hold 16 sums of 8 rows by 8 centroids.
#include <arm_neon.h>
#define GPUKM_ISA neon
#define GPUKM_NEON 1
#define GPUKM_VECTOR_BYTES 16
#define GPUKM_BLOCK 8
#include "kernels.inl.h"

const gpukm::Table* gpukm::table_neon() { return &gpukm::neon::kTable; }
