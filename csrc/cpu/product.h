// Products of a few rows with a panel of weights: out[r][n] = sum_k a[r][k] panel[k][n].
//
// Included by instruction_set.h inside its namespace. A panel is kColumns = 4 vectors wide, so that
// kRows x 4 sums, the 4 vectors of a step and one broadcast number fill the registers.
//
// Layout    Operand  C (float or double): panel [K, kColumns].
//           Pair     two bfloat16 that one instruction multiplies and adds: panel
//                    [K / 2, kColumns, 2], rows of a [K], K even.
// Mapping   K is cut into blocks of at most kDepth, so that a block of the panel stays in the second
//           cache while all rows pass over it; the blocks' sums are added up in out.
// Numbers   sums in C, k ascending: one chain for a block, one over the blocks, so an error grows
//           with the root of kDepth. The result of a row depends neither on the other rows nor on
//           the number of threads.
//
// 64 x 1152 x 4608 on two cores of an AMD EPYC (Zen 5), 2026-11-23: float32 1.48 ms, 458 GFlop/s
// (oneDNN 1.67 ms, MKL 4.2); bfloat16 0.69 ms (torch.mm 0.85).

template <typename C>
inline constexpr int kColumns = 4 * kLanes<C>;

// Most rows of one call; out is kMaxRows * kColumns * 4 = 24 KiB with 64-byte vectors.
inline constexpr int64_t kMaxRows = 96;
// Bytes of a panel's block, 576 float32 deep in AVX-512: a fraction of a second-level cache of 1 MiB.
// Twice as deep runs as fast, but its sums are less exact than MKL's.
inline constexpr int64_t kBlockBytes = 576 * 4 * 64;

// Two consecutive bfloat16; the type of an operand whose products are summed in float.
struct Pair {};
template <typename Operand>
struct OperandTraits {
  using Compute = Operand;
  using Element = Operand;
};
template <>
struct OperandTraits<Pair> {
  using Compute = float;
  using Element = c10::BFloat16;
};
template <typename Operand>
using ComputeOf = typename OperandTraits<Operand>::Compute;
template <typename Operand>
using ElementOf = typename OperandTraits<Operand>::Element;

// Whether consecutive numbers along K stand side by side in panels.
template <typename Operand>
inline constexpr bool kPaired = sizeof(ElementOf<Operand>) == 2;

// out [kTileRows, kColumns] = sums, or out + sums.
template <int kTileRows, typename V, typename C>
ULMFIT_FAST_INLINE void write_sums(const V (&sum)[kTileRows][4], C* out, bool add) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      C* target = out + r * kColumns<C> + j * kLanes<C>;
      store(target, add ? load(target) + sum[r][j] : sum[r][j]);
    }
}

// Rows of a are contiguous in k; or, with kTransposed, its columns are: a[k * stride + r], for Pair
// a[k / 2 * 2 stride + 2 r] and its neighbour.
template <int kTileRows, bool kTransposed, typename C>
ULMFIT_FAST_INLINE void tile(int64_t K, const C* a, int64_t stride, const C* panel, C* out,
                             bool add, C) {
  Vector<C> sum[kTileRows][4] = {};
  for (int64_t k = 0; k < K; ++k) {
    Vector<C> w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = load(panel + k * kColumns<C> + j * kLanes<C>);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const C factor = kTransposed ? a[k * stride + r] : a[r * stride + k];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sum[r][j] += factor * w[j];
    }
  }
  write_sums(sum, out, add);
}

#ifdef ULMFIT_FAST_HAS_PAIRS
// 16 pairs from any address.
ULMFIT_FAST_INLINE __m512bh pairs(const c10::BFloat16* source) {
  const __m512i bits = _mm512_loadu_si512(source);
  __m512bh v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

template <int kTileRows, bool kTransposed>
ULMFIT_FAST_INLINE void tile(int64_t K, const c10::BFloat16* a, int64_t stride,
                             const c10::BFloat16* panel, float* out, bool add, Pair) {
  Vector<float> sum[kTileRows][4] = {};
  for (int64_t k = 0; k < K; k += 2) {
    __m512bh w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = pairs(panel + k * 64 + j * 32);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, kTransposed ? a + k * stride + 2 * r : a + r * stride + k, sizeof(pair));
      const __m512i repeated = _mm512_set1_epi32(pair);
      __m512bh factor;
      std::memcpy(&factor, &repeated, sizeof(factor));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], factor, w[j]);
    }
  }
  write_sums(sum, out, add);
}
#endif

template <typename Operand, bool kTransposed, int kTileRows = kRows>
ULMFIT_FAST_INLINE void tile_of(int64_t n_rows, int64_t K, const ElementOf<Operand>* a,
                                int64_t stride, const ElementOf<Operand>* panel,
                                ComputeOf<Operand>* out, bool add) {
  if constexpr (kTileRows > 1) {
    if (n_rows < kTileRows) {
      return tile_of<Operand, kTransposed, kTileRows - 1>(n_rows, K, a, stride, panel, out, add);
    }
  }
  tile<kTileRows, kTransposed>(K, a, stride, panel, out, add, Operand{});
}

// out [n_rows, kColumns] = a [n_rows, K] panel [K, kColumns], n_rows <= kMaxRows.
template <typename Operand, bool kTransposed = false>
void multiply(int64_t n_rows, int64_t K, const ElementOf<Operand>* a, int64_t stride,
              const ElementOf<Operand>* panel, ComputeOf<Operand>* out) {
  using C = ComputeOf<Operand>;
  constexpr int64_t kDepth =
      kBlockBytes / (kColumns<C> * static_cast<int64_t>(sizeof(ElementOf<Operand>)));
  const int64_t n_blocks = std::max<int64_t>(1, (K + kDepth - 1) / kDepth);
  const int64_t depth = ((K + n_blocks - 1) / n_blocks + 1) / 2 * 2;
  for (int64_t k = 0; k < K; k += depth) {
    const int64_t block = std::min(depth, K - k);
    for (int64_t r = 0; r < n_rows; r += kRows) {
      constexpr int64_t kStep = std::is_same_v<Operand, Pair> ? 2 : 1;
      tile_of<Operand, kTransposed>(n_rows - r, block,
                                    kTransposed ? a + k * stride + kStep * r : a + r * stride + k,
                                    stride, panel + k * kColumns<C>, out + r * kColumns<C>, k > 0);
    }
  }
}

template <typename C>
ULMFIT_FAST_INLINE void add_to(C* target, const C* source, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<C>) store(target + i, load(target + i) + load(source + i));
}

// What multiplies a kind of operand, for what is generic in it.
template <typename Operand>
struct Product {
  // What a thread holds while it multiplies; and what K is a multiple of.
  struct Scope {
    Scope() {}
  };
  static constexpr int64_t kDepth = kPaired<Operand> ? 2 : 1;
  static constexpr int64_t kReadRows = 1;
  static constexpr bool kIsSlow = true;

  static void multiply(int64_t n_rows, int64_t K, const ElementOf<Operand>* a, int64_t stride,
                       const ElementOf<Operand>* panel, ComputeOf<Operand>* out) {
    ULMFIT_FAST_ISA::multiply<Operand>(n_rows, K, a, stride, panel, out);
  }

  // out += the product.
  static void add(int64_t n_rows, int64_t K, const ElementOf<Operand>* a, int64_t stride,
                  const ElementOf<Operand>* panel, ComputeOf<Operand>* out) {
    alignas(64) ComputeOf<Operand> sums[kMaxRows * kColumns<ComputeOf<Operand>>];
    multiply(n_rows, K, a, stride, panel, sums);
    add_to(out, sums, n_rows * kColumns<ComputeOf<Operand>>);
  }
};
