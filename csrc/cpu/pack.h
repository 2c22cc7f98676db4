// Panels of a matrix for product.h, its mask applied on the way: the only copy of a weight.
//
// Included by instruction_set.h inside its namespace.
//
//   value(r, c) = keep(r * n_cols + c) ? source[r][c] * scale : 0, rounded to the storage type S,
//   or source[r][c] itself where nothing is dropped; keep as in philox.h.
//
// Layout    pack_gates  source [4H, K] -> panels [H / kLanes][K][4][kLanes]: a panel's columns are
//                       the gates i, f, g, o of kLanes units.
//           pack_rows   source [K, N] -> panels [N / kColumns][K][kColumns].
//           Units and columns beyond H and N are 0, as is what fills K up. For pairs each panel is
//           [K / 2][kColumns][2].

// Numbers of a row that are drawn and converted at once.
inline constexpr int64_t kChunk = 128;

// out [n, 2] = first [n] and second [n], alternating: consecutive rows as pairs.
ULMFIT_FAST_INLINE void interleave(const c10::BFloat16* first, const c10::BFloat16* second,
                                   int64_t n, c10::BFloat16* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t pair = first[i].x | static_cast<uint32_t>(second[i].x) << 16;
    std::memcpy(out + 2 * i, &pair, sizeof(pair));
  }
}

// factors [kCount] = scale where the mask keeps element index, index + 1, ..., else 0.
template <int64_t kCount, typename C>
ULMFIT_FAST_INLINE void mask_factors(const Mask& mask, uint64_t index, C* factors) {
  constexpr int64_t kBlocks = kCount / kWordsPerBlock + 1;
  const uint64_t first_block = index / kWordsPerBlock;
  uint32_t words[kBlocks * kWordsPerBlock];
  for (int64_t block = 0; block < kBlocks; ++block) {
    const PhiloxBlock drawn = mask_words(first_block + block, mask.seed);
    for (int k = 0; k < kWordsPerBlock; ++k) words[kWordsPerBlock * block + k] = drawn.word[k];
  }
  const uint32_t* word = words + index % kWordsPerBlock;
  const C scale = static_cast<C>(mask.scale);
  for (int64_t i = 0; i < kCount; ++i) factors[i] = word[i] >= mask.threshold ? scale : C{0};
}

// Not simply the product: a dropped NaN or infinity is 0.
template <typename V>
ULMFIT_FAST_INLINE V times(V v, V factor) {
  return factor == 0 ? V{} : v * factor;
}

// out[0..n) = the row's values from column on, masked, as S; n <= kChunk.
template <typename S>
ULMFIT_FAST_INLINE void masked_values(const PackParams& params, int64_t row, int64_t column,
                                      int64_t n, S* out) {
  using C = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const S* source = static_cast<const S*>(params.row(row)) + column;
  if (params.wide && !std::is_same_v<S, C>) {
    const C* wide = static_cast<const C*>(params.row(row)) + column;
    for (int64_t i = 0; i < n; i += kLanes<C>)
      store_first(out + i, load_first<C>(wide + i, n - i), n - i);
    source = out;
  }
  if (!params.mask.drop) {
    if (source != out) std::copy_n(source, n, out);
    return;
  }
  C factors[kChunk];
  mask_factors<kChunk>(params.mask, static_cast<uint64_t>(row) * params.n_cols + column, factors);
  for (int64_t i = 0; i < n; i += kLanes<C>)
    store_first(out + i, times(load_first<C>(source + i, n - i), load(factors + i)), n - i);
}

template <typename Operand, typename S>
ULMFIT_FAST_INLINE void as_element(const S* values, int64_t n, ElementOf<Operand>* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<ElementOf<Operand>>(values[i]);
}

// target [n][kWidth] = columns [kWidth][kChunk], transposed; both count pairs where there are some.
template <typename W, int64_t kWidth, int64_t kStride>
ULMFIT_FAST_INLINE void transpose(const W* columns, int64_t n, W* target) {
  for (int64_t k = 0; k < n; ++k)
    for (int64_t column = 0; column < kWidth; ++column)
      target[k * kWidth + column] = columns[column * kStride + k];
}

template <typename S, typename Operand>
void pack_gates(const PackParams& params, int64_t first_panel, int64_t last_panel) {
  using E = ElementOf<Operand>;
  constexpr int64_t kWidth = kColumns<ComputeOf<Operand>>, kUnits = kWidth / 4;
  const int64_t H = params.n_rows / 4, K = params.padded(params.n_cols);
  alignas(64) E block[kWidth * kChunk];
  S values[kChunk];
  for (int64_t p = first_panel; p < last_panel; ++p) {
    E* panel = static_cast<E*>(params.panels) + p * K * kWidth;
    for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
      const int64_t n = std::min(kChunk, params.n_cols - k0), padded = std::min(kChunk, K - k0);
      for (int64_t column = 0; column < kWidth; ++column) {
        const int64_t unit = p * kUnits + column % kUnits;
        E* target = block + column * kChunk;
        std::fill_n(target, padded, E(0.0f));
        if (unit < H && n > 0) {
          masked_values<S>(params, column / kUnits * H + unit, k0, n, values);
          as_element<Operand>(values, n, target);
        }
      }
      if constexpr (kPaired<Operand>) {
        transpose<uint32_t, kWidth, kChunk / 2>(reinterpret_cast<const uint32_t*>(block),
                                                padded / 2,
                                                reinterpret_cast<uint32_t*>(panel + k0 * kWidth));
      } else {
        transpose<E, kWidth, kChunk>(block, padded, panel + k0 * kWidth);
      }
    }
  }
}

// Rows first_k up to last_k. For pairs, row pairs: first_k and last_k count two rows each.
template <typename S, typename Operand>
void pack_rows(const PackParams& params, int64_t first_k, int64_t last_k) {
  using E = ElementOf<Operand>;
  constexpr int64_t kWidth = kColumns<ComputeOf<Operand>>;
  constexpr int64_t kRowsAtOnce = kPaired<Operand> ? 2 : 1;
  static_assert(kChunk % kWidth == 0, "a chunk is a number of whole panels");
  const int64_t K = params.padded(params.n_rows);
  S values[kRowsAtOnce][kChunk];
  for (int64_t group = first_k; group < last_k; ++group) {
    const int64_t k = group * kRowsAtOnce;
    for (int64_t column = 0; column < params.n_cols; column += kChunk) {
      const int64_t n = std::min(kChunk, params.n_cols - column);
      for (int64_t i = 0; i < kRowsAtOnce; ++i) {
        std::fill_n(values[i], kChunk, S(0.0f));
        if (k + i < params.n_rows) masked_values<S>(params, k + i, column, n, values[i]);
      }
      for (int64_t i = 0; i < n; i += kWidth) {
        E* panel = static_cast<E*>(params.panels) + (column + i) * K + k * kWidth;
        if constexpr (kPaired<Operand>) {
          interleave(values[0] + i, values[1] + i, kWidth, panel);
        } else {
          as_element<Operand>(values[0] + i, kWidth, panel);
        }
      }
    }
  }
}
