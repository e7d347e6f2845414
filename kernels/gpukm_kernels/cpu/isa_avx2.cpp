// x86-64 with AVX2 and FMA: 16 registers of 8 floats hold 12 sums, two row vectors and a broadcast.
#include <immintrin.h>
#define GPUKM_ISA avx2
#define GPUKM_AVX2 1
#define GPUKM_VECTOR_BYTES 32
#define GPUKM_BLOCK 6
#include "kernels.inl.h"

const gpukm::Table* gpukm::table_avx2() { return &gpukm::avx2::kTable; }
