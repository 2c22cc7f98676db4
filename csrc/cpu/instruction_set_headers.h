// Everything that instruction_set.h needs from outside, for before the target is chosen.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "../adamw.h"
#include "../launchers.h"
#include "../philox.h"
#include "torch/headeronly/util/BFloat16.h"
#include "torch/headeronly/util/Half.h"

// Other instruction sets than the build's own are chosen at run time, where the compiler can.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ULMFIT_FAST_X86_CLONES
#include <cpuid.h>
#include <immintrin.h>
#endif
