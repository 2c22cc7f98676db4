// AVX2 with fused multiply-add: 16 registers of 32 bytes.
#include "instruction_set_headers.h"

#ifdef ULMFIT_FAST_X86_CLONES
#pragma GCC target("arch=x86-64-v3")
#define ULMFIT_FAST_ISA avx2
#define ULMFIT_FAST_VECTOR 32
#define ULMFIT_FAST_ROWS 3
#define ULMFIT_FAST_PRODUCTS true
#include "instruction_set.h"
#endif
