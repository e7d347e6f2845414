// Plain C++ for any processor; GCC's vector extension lowers to whatever the baseline has.
#define GPUKM_ISA portable
#define GPUKM_VECTOR_BYTES 16
#define GPUKM_BLOCK 6
#include "kernels.inl.h"

const gpukm::Table* gpukm::table_portable() { return &gpukm::portable::kTable; }
