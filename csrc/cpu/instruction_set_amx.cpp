// AVX-512 with matrix units for bfloat16.
#include "instruction_set_headers.h"

#ifdef ULMFIT_FAST_X86_CLONES
#pragma GCC target("arch=x86-64-v4,avx512bf16,amx-tile,amx-bf16")
#define ULMFIT_FAST_ISA amx
#define ULMFIT_FAST_VECTOR 64
#define ULMFIT_FAST_ROWS 6
#define ULMFIT_FAST_PRODUCTS true
#define ULMFIT_FAST_HAS_PAIRS
#define ULMFIT_FAST_HAS_TILES
#include "instruction_set.h"
#endif
