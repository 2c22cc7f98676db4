// AVX-512 with an instruction that multiplies and adds pairs of bfloat16.
#include "instruction_set_headers.h"

#ifdef ULMFIT_FAST_X86_CLONES
#pragma GCC target("arch=x86-64-v4,avx512bf16")
#define ULMFIT_FAST_ISA avx512_bf16
#define ULMFIT_FAST_VECTOR 64
#define ULMFIT_FAST_ROWS 6
#define ULMFIT_FAST_PRODUCTS true
#define ULMFIT_FAST_HAS_PAIRS
#include "instruction_set.h"
#endif
