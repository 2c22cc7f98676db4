// The instruction set that the compiler builds for: SSE2 on x86-64, NEON on 64-bit ARM.
#include "instruction_set_headers.h"

#if defined(__aarch64__)
#define ULMFIT_FAST_ROWS 6
#else
#define ULMFIT_FAST_ROWS 2
#endif
#define ULMFIT_FAST_ISA baseline
#define ULMFIT_FAST_VECTOR 16
#define ULMFIT_FAST_PRODUCTS false
#include "instruction_set.h"
