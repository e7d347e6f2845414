// x86-64 with AVX-512 F, DQ, BW, VL and VNNI: 16 sums of 16 floats, and masks for the running minimum.
#include <immintrin.h>
#define GPUKM_ISA avx512
#define GPUKM_AVX512 1
#define GPUKM_VECTOR_BYTES 64
#define GPUKM_BLOCK 8
#include "kernels.inl.h"

const gpukm::Table* gpukm::table_avx512() { return &gpukm::avx512::kTable; }
