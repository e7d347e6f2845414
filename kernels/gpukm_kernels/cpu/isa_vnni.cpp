// x86-64 with AVX-512 VL and VNNI: 256-bit vectors, for processors whose 512-bit ones are no faster; 32 registers hold
// 16 sums, and one instruction multiplies and adds pairs of integers.
#include <immintrin.h>
#define GPUKM_ISA vnni
#define GPUKM_AVX2 1
#define GPUKM_VNNI 1
#define GPUKM_VECTOR_BYTES 32
#define GPUKM_BLOCK 8
#include "kernels.inl.h"

const gpukm::Table* gpukm::table_vnni() { return &gpukm::vnni::kTable; }
