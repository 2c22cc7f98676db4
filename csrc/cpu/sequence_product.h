// The products of a whole sequence: the input's part of the gates, and the gradients of x, W_ih and
// W_hh. Where an instruction set has none of its own, torch's product takes their place.
//
// Included by instruction_set.h inside its namespace. S is the storage type of what is read and
// written; sums are in C.
//
// torch's float32 product on the CPU is MKL's, which on AMD reaches 210 GFlop/s where this reaches
// 440 (4480 x 1152 x 4608, two cores of an EPYC, Zen 5, 2026-11-23) and oneDNN 400; in bfloat16
// oneDNN reaches 920, this 980.

template <typename S, typename Operand>
struct SequenceProduct {
  using C = ComputeOf<Operand>;
  using E = ElementOf<Operand>;
  static constexpr int64_t kUnits = kLanes<C>;
  static constexpr int64_t kWidth = kColumns<C>;

  static const E* panel(const void* panels, int64_t column, int64_t K) {
    return static_cast<const E*>(panels) + column * K;
  }

  static constexpr bool kTiled = Product<Operand>::kReadRows > 1;

  // Rows as a product reads them, depth and number filled up: a itself, or a copy of it.
  struct Rows {
    const E* first;
    int64_t stride;
  };
  static Rows rows_of(const E* a, int64_t n, int64_t K, std::vector<E>& copy) {
    constexpr int64_t kDepth = Product<Operand>::kDepth, kRead = Product<Operand>::kReadRows;
    if (!kTiled || (K % kDepth == 0 && n % kRead == 0)) return {a, K};
    const int64_t stride = (K + kDepth - 1) / kDepth * kDepth;
    copy.assign(static_cast<size_t>((n + kRead - 1) / kRead * kRead * stride), E(0.0f));
    for (int64_t r = 0; r < n; ++r) std::copy_n(a + r * K, K, copy.data() + r * stride);
    return {copy.data(), stride};
  }

  // out [M, 4H] = a [M, K] panels + bias; panels from pack_gates. Chunks of kMaxRows rows.
  static void gates(const ProductParams& params, int64_t first_chunk, int64_t last_chunk) {
    const int64_t H = params.N / 4, K = params.K;
    const S* bias = static_cast<const S*>(params.bias);
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    std::vector<E> copy;
    alignas(64) C sums[kMaxRows * kWidth];
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      const int64_t row = chunk * kMaxRows, n = std::min(kMaxRows, params.M - row);
      const Rows a = rows_of(static_cast<const E*>(params.a) + row * K, n, K, copy);
      S* out = static_cast<S*>(params.out) + row * params.N;
      for (int64_t u = 0; u < H; u += kUnits) {
        Product<Operand>::multiply(n, a.stride, a.first, a.stride,
                                   panel(params.panels, 4 * u, a.stride), sums);
        for (int64_t gate = 0; gate < 4; ++gate) {
          Vector<C> b{};
          if (bias != nullptr) b = load_first<C>(bias + gate * H + u, H - u);
          for (int64_t r = 0; r < n; ++r)
            store_first(out + r * params.N + gate * H + u,
                        load(sums + r * kWidth + gate * kUnits) + b, H - u);
        }
      }
    }
  }

  template <typename Out>
  static void write_columns(const C* sums, int64_t n, int64_t column, int64_t N, Out* out) {
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < kWidth && column + j < N; j += kUnits)
        store_first(out + r * N + column + j, load(sums + r * kWidth + j), N - column - j);
  }

  // out [M, N] = a [M, K] panels; panels from pack_rows. Chunks of kMaxRows rows.
  static void rows(const ProductParams& params, int64_t first_chunk, int64_t last_chunk) {
    const int64_t K = params.K, N = params.N;
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    std::vector<E> copy;
    alignas(64) C sums[kMaxRows * kWidth];
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      const int64_t row = chunk * kMaxRows, n = std::min(kMaxRows, params.M - row);
      const Rows a = rows_of(static_cast<const E*>(params.a) + row * K, n, K, copy);
      for (int64_t column = 0; column < N; column += kWidth) {
        Product<Operand>::multiply(n, a.stride, a.first, a.stride,
                                   panel(params.panels, column, a.stride), sums);
        write_columns(sums, n, column, N, static_cast<S*>(params.out) + row * N);
      }
    }
  }

  // Rows whose sums are one chain: errors grow with the root of it, and of the number of chains.
  static constexpr int64_t kSumRows = 64;

  // The columns row up to row + n of a [K, M], and their sums. They become a strip [K, kMaxRows], for
  // Pair [K / 2, kMaxRows, 2] with a row of zeros after an odd K, for tiles the rows of a^T, K filled
  // up with zeros.
  template <typename Out>
  static void copy_columns(const S* a, int64_t K, int64_t M, int64_t row, int64_t n, int64_t stride,
                           E* strip, Out* sums) {
    C total[kMaxRows] = {};
    for (int64_t begin = 0; begin < K; begin += kSumRows) {
      C chain[kMaxRows] = {};
      const int64_t end = std::min(begin + kSumRows, K);
      for (int64_t k = begin; k < end; ++k) {
        const S* source = a + k * M + row;
        for (int64_t i = 0; i < n; i += kUnits)
          store(chain + i, load(chain + i) + load_first<C>(source + i, n - i));
        if constexpr (kTiled) {
          for (int64_t i = 0; i < n; ++i) strip[i * stride + k] = source[i];
        } else if constexpr (!kPaired<Operand>) {
          std::copy_n(source, n, strip + k * kMaxRows);
        }
      }
      if constexpr (kPaired<Operand> && !kTiled) {
        const S zeros[kMaxRows] = {};
        for (int64_t k = begin; k < end; k += 2)
          interleave(a + k * M + row, k + 1 < K ? a + (k + 1) * M + row : zeros, n,
                     strip + k * kMaxRows);
      }
      for (int64_t i = 0; i < n; ++i) total[i] += chain[i];
    }
    for (int64_t i = 0; i < n; ++i) sums[row + i] = static_cast<Out>(total[i]);
  }

  // Masks n rows of sums, of rows row, row + 1, ... and columns column, ... of a matrix [*, N].
  static void mask_sums(const Mask& mask, int64_t row, int64_t n, int64_t column, int64_t N,
                        C* sums) {
    C factors[kWidth];
    for (int64_t r = 0; r < n; ++r) {
      mask_factors<kWidth>(mask, static_cast<uint64_t>(row + r) * N + column, factors);
      C* target = sums + r * kWidth;
      for (int64_t j = 0; j < kWidth; j += kUnits)
        store(target + j, times(load(target + j), load(factors + j)));
    }
  }

  // out [M, N] = mask * a [K, M]^T panels, for two panels and outs that share a: the weights'
  // gradients; panels from pack_rows. Chunks of kMaxRows rows of out.
  static void transposed(const TransposedProductParams& params, int64_t first_chunk,
                         int64_t last_chunk) {
    if (params.wide) return transposed_to<C>(params, first_chunk, last_chunk);
    transposed_to<S>(params, first_chunk, last_chunk);
  }

  template <typename Out>
  static void transposed_to(const TransposedProductParams& params, int64_t first_chunk,
                            int64_t last_chunk) {
    constexpr int64_t kDepth = Product<Operand>::kDepth;
    const int64_t K = (params.K + kDepth - 1) / kDepth * kDepth;
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    std::vector<E> strip(static_cast<size_t>(K * kMaxRows), E(0.0f));
    alignas(64) C sums[kMaxRows * kWidth];
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      const int64_t row = chunk * kMaxRows, n = std::min(kMaxRows, params.M - row);
      copy_columns(static_cast<const S*>(params.a), params.K, params.M, row, n, K, strip.data(),
                   static_cast<Out*>(params.column_sums));
      for (int side = 0; side < 2; ++side) {
        const int64_t N = params.N[side];
        for (int64_t column = 0; column < N; column += kWidth) {
          if constexpr (kTiled) {
            Product<Operand>::multiply(n, K, strip.data(), K, panel(params.panels[side], column, K),
                                       sums);
          } else {
            multiply<Operand, true>(n, K, strip.data(), kMaxRows,
                                    panel(params.panels[side], column, K), sums);
          }
          if (params.mask[side].drop) mask_sums(params.mask[side], row, n, column, N, sums);
          write_columns(sums, n, column, N, static_cast<Out*>(params.out[side]) + row * N);
        }
      }
    }
  }
};
