// Stands in for the units of AVX-512 in programs that leave these out.
#include "dispatch.h"

const gpukm::Table* gpukm::table_vnni() { return table_portable(); }
const gpukm::Table* gpukm::table_avx512() { return table_portable(); }
