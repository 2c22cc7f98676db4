// AVX-512: 32 registers of 64 bytes.
#include "instruction_set_headers.h"

#ifdef ULMFIT_FAST_X86_CLONES
#pragma GCC target("arch=x86-64-v4")
#define ULMFIT_FAST_ISA avx512
#define ULMFIT_FAST_VECTOR 64
#define ULMFIT_FAST_ROWS 6
#define ULMFIT_FAST_PRODUCTS true
#include "instruction_set.h"
#endif
