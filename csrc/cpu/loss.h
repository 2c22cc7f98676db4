// Linear layer and cross-entropy of a chunk of tokens, for slices of the vocabulary.
//
// Included by instruction_set.h inside its namespace. S is the storage type of hidden.
//
//   z = W h^T + b     statistics: max(z), sum(exp(z - max)), z[target] and sum(z) of every token
//   dz = g (exp(z - lse) - (1 - s) onehot - s / V)     dW += dz h, db += sum(dz), dh^T += W^T dz
//
// Layout    logits stand with the vocabulary as rows and tokens as lanes, a block of kLossRows rows
//           by a panel of kWidth tokens at a time: maxima and sums over the vocabulary then need no
//           shuffles, W is read as it lies, and dz is at once the panel of the product for dh and,
//           copied, the rows of that for dW.
// Memory    what a block makes stays in the second cache: a tile of logits 48 KiB, dz of all tokens
//           of a chunk 384 KiB in float32, half that in bfloat16. The logits themselves are read
//           back from memory by the second pass, or made again where products are cheaper than that
//           (logits == nullptr).
// Numbers   everything between loads and stores in C; operands are rounded to their element type, dz
//           last. A token's result depends on its slice's bounds only through the order of sums.

template <typename S, typename Operand>
struct LossPasses {
  using C = ComputeOf<Operand>;
  using E = ElementOf<Operand>;
  static constexpr int64_t kUnits = kLanes<C>;
  static constexpr int64_t kWidth = kColumns<C>;
  // Pairs of bfloat16 go into one instruction: then rows of dz^T and W^T are wanted, not of W.
  static constexpr bool kPaired = ULMFIT_FAST_ISA::kPaired<Operand>;
  static constexpr int64_t kTogether = kPaired ? 2 : 1;
  static constexpr int64_t kDepth = Product<Operand>::kDepth;
  static_assert(kLossRows % kMaxRows == 0, "a block is a number of whole products");

  static void product(int64_t n_rows, int64_t K, const E* a, int64_t stride, const E* panel,
                      C* out) {
    Product<Operand>::multiply(n_rows, K, a, stride, panel, out);
  }

  // Tokens of panels first .. last - 1, as panels over the features and over the tokens.
  static void pack_hidden(const LossParams& params, int64_t first, int64_t last) {
    const int64_t n_features = params.E, K = params.K;
    const int64_t n_columns = (n_features + kWidth - 1) / kWidth;
    for (int64_t p = first; p < last; ++p) {
      const int64_t token = p * kWidth, n = std::min(kWidth, params.N - token);
      const S* hidden = static_cast<const S*>(params.hidden) + token * n_features;
      E* columns = static_cast<E*>(params.hidden_columns) + p * K * kWidth;
      std::fill_n(columns, K * kWidth, E(0.0f));
      for (int64_t t = 0; t < n; ++t)
        for (int64_t k = 0; k < n_features; ++k)
          columns[k / kTogether * kTogether * kWidth + t * kTogether + k % kTogether] =
              static_cast<E>(hidden[t * n_features + k]);
      if (params.hidden_rows == nullptr) continue;
      for (int64_t q = 0; q < n_columns; ++q) {
        E* rows = static_cast<E*>(params.hidden_rows) + (q * params.n_panels + p) * kWidth * kWidth;
        std::fill_n(rows, kWidth * kWidth, E(0.0f));
        const int64_t width = std::min(kWidth, n_features - q * kWidth);
        for (int64_t t = 0; t < n; ++t)
          for (int64_t j = 0; j < width; ++j)
            rows[t / kTogether * kTogether * kWidth + j * kTogether + t % kTogether] =
                static_cast<E>(hidden[t * n_features + q * kWidth + j]);
      }
    }
  }

  template <typename W>
  static void copy_weight(const LossParams& params, int64_t first, int64_t last) {
    const int64_t n_features = params.E, K = params.K;
    const auto* weight = static_cast<const W*>(params.weight);
    for (int64_t block = first; block < last; ++block) {
      const int64_t v0 = block * kLossRows, n = std::min(kLossRows, params.V - v0);
      E* copy = static_cast<E*>(params.weight_copy) + v0 * K;
      for (int64_t v = 0; v < kLossRows; ++v) {
        E* row = copy + v * K;
        std::fill_n(row, K, E(0.0f));
        if (v >= n) continue;
        const W* source = weight + (v0 + v) * n_features;
        for (int64_t i = 0; i < n_features; i += kUnits) {
          const int64_t left = n_features - i;
          store_first(row + i, rounded_to<S>(load_first<C>(source + i, left)), left);
        }
      }
      if (params.weight_columns == nullptr) continue;
      E* columns = static_cast<E*>(params.weight_columns) + block * K * kLossRows;
      for (int64_t k = 0; k < K; ++k)
        for (int64_t v = 0; v < kLossRows; ++v) columns[k * kLossRows + v] = copy[v * K + k];
    }
  }

  // Blocks first .. last - 1 of the weight in the operand's element type, where it has another.
  static void pack_weight(const LossParams& params, int64_t first, int64_t last) {
    if (params.wide_weight) return copy_weight<C>(params, first, last);
    copy_weight<S>(params, first, last);
  }

  static const E* weight_row(const LossParams& params, int64_t v) {
    const void* weight = params.weight_copy == nullptr ? params.weight : params.weight_copy;
    return static_cast<const E*>(weight) + v * params.K;
  }

  // tile [n, kWidth] = logits of rows v0, v0 + 1, ... and the tokens of a panel.
  static void make_logits(const LossParams& params, int64_t v0, int64_t n, int64_t panel, C* tile) {
    const E* columns = static_cast<const E*>(params.hidden_columns) + panel * params.K * kWidth;
    for (int64_t r = 0; r < n; r += kMaxRows)
      product(std::min(kMaxRows, n - r), params.K, weight_row(params, v0 + r), params.K, columns,
              tile + r * kWidth);
    if (params.bias == nullptr) return;
    const C* bias = static_cast<const C*>(params.bias) + v0;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < kWidth; j += kUnits)
        store(tile + r * kWidth + j, load(tile + r * kWidth + j) + bias[r]);
  }

  static C* stored_logits(const LossParams& params, int64_t block, int64_t panel) {
    if (params.logits == nullptr) return nullptr;
    return static_cast<C*>(params.logits) + (block * params.n_panels + panel) * kLossRows * kWidth;
  }

  // Maxima and sums of a tile join those of the tiles before.
  ULMFIT_FAST_INLINE static void add_statistics(const C* tile, int64_t n, C* largest, C* sums,
                                                C* totals) {
    for (int64_t j = 0; j < kWidth; j += kUnits) {
      Vector<C> before = load(largest + j), top = before, total{};
      for (int64_t r = 0; r < n; ++r) {
        const Vector<C> z = load(tile + r * kWidth + j);
        top = z > top ? z : top;
        total += z;
      }
      // Where every class so far is forbidden (-inf) there is nothing to be relative to.
      constexpr C kForbidden = -std::numeric_limits<C>::infinity();
      const Vector<C> base = top == kForbidden ? Vector<C>{} : top;
      Vector<C> sum[2] = {};
      for (int64_t r = 0; r < n; ++r)
        sum[r % 2] += exp_below_88(load(tile + r * kWidth + j) - base);
      store(largest + j, top);
      store(sums + j, load(sums + j) * exp(before - base) + sum[0] + sum[1]);
      if (totals != nullptr) store(totals + j, load(totals + j) + total);
    }
  }

  static void statistics(const LossParams& params, int64_t slice) {
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    const int64_t width = params.n_panels * kWidth;
    C* largest = static_cast<C*>(params.largest) + slice * width;
    C* sums = static_cast<C*>(params.sums) + slice * width;
    C* totals = params.totals == nullptr ? nullptr : static_cast<C*>(params.totals) + slice * width;
    C* wanted = static_cast<C*>(params.wanted);
    std::fill_n(largest, width, -std::numeric_limits<C>::infinity());
    std::fill_n(sums, width, C{0});
    if (totals != nullptr) std::fill_n(totals, width, C{0});
    alignas(64) C buffer[kLossRows * kWidth];
    for (int64_t block = params.first_block(slice); block < params.first_block(slice + 1);
         ++block) {
      const int64_t v0 = block * kLossRows, n = std::min(kLossRows, params.V - v0);
      for (int64_t p = 0; p < params.n_panels; ++p) {
        C* stored = stored_logits(params, block, p);
        C* tile = stored == nullptr ? buffer : stored;
        make_logits(params, v0, n, p, tile);
        const int64_t token = p * kWidth;
        add_statistics(tile, n, largest + token, sums + token,
                       totals == nullptr ? nullptr : totals + token);
        for (int64_t t = 0; t < std::min(kWidth, params.N - token); ++t) {
          const int64_t row = params.targets[token + t] - v0;
          if (row >= 0 && row < n) wanted[token + t] = tile[row * kWidth + t];
        }
      }
    }
  }

  // Shares below it are 0: they change no sum, and products with what is denormal take 50 times as
  // long.
  static constexpr C kLeastShare = C(1e-30);

  // tile = dz of n rows from v0 on; row_sums [n, kUnits] += their parts of db.
  ULMFIT_FAST_INLINE static void make_dz(const LossParams& params, int64_t v0, int64_t n,
                                         int64_t token, C* tile, C* row_sums) {
    const C* lse = static_cast<const C*>(params.lse) + token;
    const C* grad = static_cast<const C*>(params.grad) + token;
    const C spread = static_cast<C>(params.label_smoothing / static_cast<double>(params.V));
    const C at_target = static_cast<C>(1.0 - params.label_smoothing);
    for (int64_t j = 0; j < kWidth; j += kUnits) {
      const Vector<C> shift = load(lse + j), g = load(grad + j);
      for (int64_t r = 0; r < n; ++r) {
        C* z = tile + r * kWidth + j;
        const Vector<C> share = exp_below_88(load(z) - shift);
        const Vector<C> dz = ((share < kLeastShare ? Vector<C>{} : share) - spread) * g;
        store(z, dz);
        store(row_sums + r * kUnits, load(row_sums + r * kUnits) + dz);
      }
    }
    for (int64_t t = 0; t < std::min(kWidth, params.N - token); ++t) {
      const int64_t row = params.targets[token + t] - v0;
      if (row < 0 || row >= n) continue;
      tile[row * kWidth + t] -= at_target * grad[t];
      row_sums[row * kUnits] -= at_target * grad[t];
    }
  }

  // By the processor's own instruction where it has one; denormal numbers then become 0.
  ULMFIT_FAST_INLINE static void round(Vector<C> v, E* target) {
#ifdef ULMFIT_FAST_HAS_PAIRS
    if constexpr (kPaired) {
      const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
      std::memcpy(target, &half, sizeof(half));
      return;
    }
#endif
    store(target, v);
  }

  // dz as rows [kLossRows, width] of the product for dW; returns the panel of that for dh.
  ULMFIT_FAST_INLINE static const E* arrange_dz(const C* tile, int64_t n, int64_t n_padded,
                                                int64_t token, int64_t width, E* rows, E* pairs) {
    for (int64_t r = 0; r < n_padded; ++r) {
      E* row = rows + r * width + token;
      if (r >= n) {
        std::fill_n(row, kWidth, E(0.0f));
        continue;
      }
      for (int64_t j = 0; j < kWidth; j += kUnits) round(load(tile + r * kWidth + j), row + j);
    }
    if constexpr (kPaired) {
      for (int64_t r = 0; r < n_padded; r += 2)
        interleave(rows + r * width + token, rows + (r + 1) * width + token, kWidth,
                   pairs + r * kWidth);
      return pairs;
    } else {
      return tile;
    }
  }

  // dh^T [K, kWidth] += W^T dz of one block.
  static void add_dh(const LossParams& params, int64_t block, int64_t n_padded, const E* panel,
                     C* dh) {
    for (int64_t k = 0; k < params.E; k += kMaxRows) {
      const int64_t n = std::min(kMaxRows, params.E - k);
      if constexpr (kPaired) {
        const E* columns = static_cast<const E*>(params.weight_columns);
        Product<Operand>::add(n, n_padded, columns + (block * params.K + k) * kLossRows, kLossRows,
                              panel, dh + k * kWidth);
      } else {
        alignas(64) C out[kMaxRows * kWidth];
        multiply<Operand, true>(n, n_padded, weight_row(params, block * kLossRows) + k, params.K,
                                panel, out);
        add_to(dh + k * kWidth, out, n * kWidth);
      }
    }
  }

  // dW [n, E] of rows v0, v0 + 1, ...: the first chunk's replaces what stands there.
  static void add_dw(const LossParams& params, int64_t v0, int64_t n, const E* rows) {
    const int64_t width = params.n_panels * kWidth, n_features = params.E;
    alignas(64) C out[kMaxRows * kWidth];
    for (int64_t q = 0; q * kWidth < n_features; ++q) {
      const E* panel = static_cast<const E*>(params.hidden_rows) + q * width * kWidth;
      const int64_t n_columns = std::min(kWidth, n_features - q * kWidth);
      for (int64_t r = 0; r < n; r += kMaxRows) {
        const int64_t n_rows = std::min(kMaxRows, n - r);
        C* dw = static_cast<C*>(params.dw) + (v0 + r) * n_features + q * kWidth;
        // It comes from memory, a few lines of every row: asked for now, it is here after the product.
        for (int64_t i = 0; i < n_rows; ++i)
          for (int64_t j = 0; j < n_columns; j += 64 / sizeof(C))
            __builtin_prefetch(dw + i * n_features + j, 1, 2);
        product(n_rows, width, rows + r * width, width, panel, out);
        for (int64_t i = 0; i < n_rows; ++i)
          for (int64_t j = 0; j < n_columns; j += kUnits) {
            Vector<C> sum = load(out + i * kWidth + j);
            C* target = dw + i * n_features + j;
            if (!params.is_first) sum += load_first<C>(target, n_columns - j);
            store_first(target, sum, n_columns - j);
          }
      }
    }
  }

  static void gradients(const LossParams& params, int64_t slice) {
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    const int64_t width = params.n_panels * kWidth;
    C* dh = static_cast<C*>(params.dh) + slice * width * params.K;
    if (params.need_dh) std::fill_n(dh, width * params.K, C{0});
    E* rows = static_cast<E*>(params.dz) + slice * width * kLossRows;
    alignas(64) C buffer[kLossRows * kWidth];
    alignas(64) C row_sums[kLossRows * kUnits];
    alignas(64) E pairs[kPaired ? kLossRows * kWidth : 1];
    for (int64_t block = params.first_block(slice); block < params.first_block(slice + 1);
         ++block) {
      const int64_t v0 = block * kLossRows, n = std::min(kLossRows, params.V - v0);
      const int64_t n_padded = kPaired ? (n + 31) / 32 * 32 : n;
      std::fill_n(row_sums, kLossRows * kUnits, C{0});
      for (int64_t p = 0; p < params.n_panels; ++p) {
        C* tile = stored_logits(params, block, p);
        if (tile == nullptr) make_logits(params, v0, n, p, tile = buffer);
        make_dz(params, v0, n, p * kWidth, tile, row_sums);
        const E* panel = arrange_dz(tile, n, n_padded, p * kWidth, width, rows, pairs);
        if (params.need_dh) add_dh(params, block, n_padded, panel, dh + p * kWidth * params.K);
      }
      if (!params.need_dw) continue;
      add_dw(params, v0, n, rows);
      if (params.db == nullptr) continue;
      C* db = static_cast<C*>(params.db) + v0;
      for (int64_t r = 0; r < n; ++r) {
        C sum = params.is_first ? C{0} : db[r];
        for (int64_t lane = 0; lane < kUnits; ++lane) sum += row_sums[r * kUnits + lane];
        db[r] = sum;
      }
    }
  }

  // hidden's gradient of panels first .. last - 1: the slices' added up in their order.
  static void write_dh(const LossParams& params, int64_t first, int64_t last) {
    const int64_t n_features = params.E, width = params.n_panels * kWidth;
    for (int64_t p = first; p < last; ++p) {
      const int64_t token = p * kWidth;
      for (int64_t t = 0; t < std::min(kWidth, params.N - token); ++t) {
        S* target = static_cast<S*>(params.d_hidden) + (token + t) * n_features;
        for (int64_t k = 0; k < n_features; ++k) {
          C sum{0};
          for (int64_t slice = 0; slice < params.n_slices; ++slice)
            sum += static_cast<const C*>(
                params.dh)[(slice * width + token) * params.K + k * kWidth + t];
          target[k] = static_cast<S>(sum);
        }
      }
    }
  }
};
