// One time step of the LSTM, forward and backward, for a range of tasks: a product and, while its
// sums are in the first cache, everything that is not a product.
//
// Included by instruction_set.h inside its namespace.
//
//   forward    a = gates[t] + h W^T, i f o = sigmoid(a), g = tanh(a), c = f c + i g, h = o tanh(c)
//   backward   dh = da[before] W + dy[t], then dc, da[t]   (before: the step that ran last)
//
// Mapping   a task is a panel of W and a range of rows; the tasks of a step write disjoint parts of
//           every array and read h, or da, of the step before, which another buffer holds.
// Numbers   everything between loads and stores in the compute type C.

template <typename S, typename Operand>
struct LstmStepper {
  using C = ComputeOf<Operand>;
  using E = ElementOf<Operand>;
  static constexpr int64_t kUnits = kLanes<C>;
  static constexpr int64_t kWidth = kColumns<C>;

  static const S* sequence(const void* base, int64_t index, int64_t size) {
    return static_cast<const S*>(base) + index * size;
  }
  static S* sequence(void* base, int64_t index, int64_t size) {
    return static_cast<S*>(base) + index * size;
  }

  // Every second step goes through a thread's panels backwards: those that the step before read last
  // are still in its cache, where a weight larger than that, read in a circle, would find none.
  static int64_t in_turns(const LstmStep& step, int64_t first, int64_t last, int64_t i) {
    return step.parity == 0 ? i : first + last - 1 - i;
  }

  static void forward(const LstmForwardParams& params, const LstmStep& step, int64_t first,
                      int64_t last) {
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    const E* h = static_cast<const E*>(params.h[step.parity]);
    alignas(64) C out[kMaxRows * kWidth];
    for (int64_t i = first; i < last; ++i) {
      const int64_t task = in_turns(step, first, last, i);
      const int64_t panel = task / params.grid.n_chunks, chunk = task % params.grid.n_chunks;
      const int64_t row = chunk * params.grid.chunk_rows;
      const int64_t n = std::min(params.grid.chunk_rows, params.B - row);
      const int64_t u = panel * kUnits;
      if (params.panels == nullptr) {
        for (int64_t r = 0; r < n; ++r)
          dot_units(params, h + (row + r) * params.K, u, out + r * kWidth);
      } else {
        Product<Operand>::multiply(n, params.K, h + row * params.K, params.K,
                                   static_cast<const E*>(params.panels) + panel * params.K * kWidth,
                                   out);
      }
      for (int64_t r = 0; r < n; ++r) forward_cell(params, step, row + r, u, out + r * kWidth);
    }
  }

  // out [4, kUnits] = the gates of units u, u + 1, ... for one row h: W_hh is read once, as it lies.
  // For so few rows what counts is memory: panels would have to be written and read first.
  static void dot_units(const LstmForwardParams& params, const E* h, int64_t u, C* out) {
    constexpr int64_t kTogether = 4;  // rows of W_hh, all of them streams of their own
    const int64_t H = params.H;
    const S* weight = static_cast<const S*>(params.rows);
    const int64_t n = std::min(kUnits, H - u);
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t i = 0; i < n; i += kTogether) {
        const S* rows[kTogether];
        for (int64_t j = 0; j < kTogether; ++j)
          rows[j] = weight + (gate * H + u + std::min(i + j, n - 1)) * H;
        C sums[kTogether];
        dot_rows(rows, h, H, sums);
        for (int64_t j = 0; j < std::min(kTogether, n - i); ++j)
          out[gate * kUnits + i + j] = sums[j];
      }
    }
  }

  template <int64_t kTogether>
  ULMFIT_FAST_INLINE static void dot_rows(const S* (&rows)[kTogether], const E* h, int64_t K,
                                          C (&sums)[kTogether]) {
    Vector<C> sum[kTogether] = {};
    int64_t k = 0;
#ifdef ULMFIT_FAST_HAS_PAIRS
    if constexpr (kPaired<Operand>) {
      for (; k + 32 <= K; k += 32) {
        const __m512bh factor = pairs(h + k);
        for (int64_t j = 0; j < kTogether; ++j)
          sum[j] = _mm512_dpbf16_ps(sum[j], pairs(rows[j] + k), factor);
      }
    }
#endif
    for (; k < K; k += kUnits) {
      const Vector<C> factor = load_first<C>(h + k, K - k);
      for (int64_t j = 0; j < kTogether; ++j) sum[j] += load_first<C>(rows[j] + k, K - k) * factor;
    }
    for (int64_t j = 0; j < kTogether; ++j) {
      sums[j] = 0;
      for (int64_t lane = 0; lane < kUnits; ++lane) sums[j] += sum[j][lane];
    }
  }

  // One row, units u up to u + kUnits or H.
  ULMFIT_FAST_INLINE static void forward_cell(const LstmForwardParams& params, const LstmStep& step,
                                              int64_t b, int64_t u, const C* product) {
    const int64_t pitch = params.pitch, H = params.H, left = H - u;
    S* gates = sequence(params.gates, step.slot * pitch + b, 4 * H) + u;
    S* y = sequence(params.y, step.t * pitch + b, H) + u;
    C* state = static_cast<C*>(params.c) + b * H + u;
    E* h_next = static_cast<E*>(params.h[1 - step.parity]) + b * params.K + u;
    Vector<C> c = load_first<C>(state, left);
    if (params.lengths == nullptr || step.t < params.lengths[b]) {
      Vector<C> a[4];
      for (int64_t gate = 0; gate < 4; ++gate)
        a[gate] = load(product + gate * kUnits) + load_first<C>(gates + gate * H, left);
      const Vector<C> i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
      c = f * c + i * g;
      const Vector<C> h = o * tanh(c);
      store_first(state, c, left);
      store_first(y, h, left);
      store_first(h_next, rounded_to<S>(h), left);
      if (params.save) {
        const Vector<C> activated[4] = {i, f, g, o};
        for (int64_t gate = 0; gate < 4; ++gate)
          store_first(gates + gate * H, activated[gate], left);
      }
    } else {
      const E* h = static_cast<const E*>(params.h[step.parity]) + b * params.K + u;
      store_first(y, Vector<C>{}, left);
      for (int64_t k = 0; k < std::min(kUnits, left); ++k) h_next[k] = h[k];
      if (params.save)
        for (int64_t gate = 0; gate < 4; ++gate) store_first(gates + gate * H, Vector<C>{}, left);
    }
    if (params.save) {
      store_first(static_cast<C*>(params.cells) + (step.t * pitch + b) * H + u, c, left);
    }
  }

  static void backward(const LstmBackwardParams& params, const LstmStep& step, int64_t first,
                       int64_t last) {
    [[maybe_unused]] const typename Product<Operand>::Scope scope;
    const int64_t B = params.B, H = params.H, K = 4 * H;
    const E* da = static_cast<const E*>(params.da[step.parity]);
    if constexpr (std::is_same_v<S, E>) {
      da = sequence(params.dgates, step.before * B, K);  // what was stored is what is multiplied
    }
    alignas(64) C out[kMaxRows * kWidth];
    for (int64_t i = first; i < last; ++i) {
      const int64_t task = in_turns(step, first, last, i);
      const int64_t panel = task / params.grid.n_chunks, chunk = task % params.grid.n_chunks;
      const int64_t row = chunk * params.grid.chunk_rows;
      const int64_t n = std::min(params.grid.chunk_rows, B - row);
      const int64_t u = panel * kWidth;
      if (step.product == nullptr) {
        Product<Operand>::multiply(n, K, da + row * K, K,
                                   static_cast<const E*>(params.panels) + panel * K * kWidth, out);
      }
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t j = 0; j < kWidth && u + j < H; j += kUnits) {
          C* dh = out + r * kWidth + j;
          if (step.product != nullptr) {
            store(dh, load_first<C>(sequence(step.product, row + r, H) + u + j, H - u - j));
          }
          backward_cell(params, step, row + r, u + j, load(dh));
        }
      }
    }
  }

  // One row, units u up to u + kUnits or H; dh: what the step that ran after t hands down.
  ULMFIT_FAST_INLINE static void backward_cell(const LstmBackwardParams& params,
                                               const LstmStep& step, int64_t b, int64_t u,
                                               Vector<C> dh) {
    const int64_t B = params.B, H = params.H, left = H - u;
    if (params.carry != nullptr) {
      C* carry = static_cast<C*>(params.carry) + b * H + u;
      dh += load_first<C>(carry, left);
      const bool runs = step.t >= 0 && step.t < params.lengths[b];
      store_first(carry, runs ? Vector<C>{} : dh, left);
    }
    if (step.t < 0) {
      return store_first(sequence(params.dh0, b, H) + u, dh, left);
    }
    const int64_t place = step.t * B + b;
    S* dgates = sequence(params.dgates, place, 4 * H) + u;
    Vector<C> da[4] = {};
    if (params.lengths == nullptr || step.t < params.lengths[b]) {
      const S* gates = sequence(params.gates, place, 4 * H) + u;
      const Vector<C> i = load_first<C>(gates, left), f = load_first<C>(gates + H, left);
      const Vector<C> g = load_first<C>(gates + 2 * H, left);
      const Vector<C> o = load_first<C>(gates + 3 * H, left);
      const C* cells = static_cast<const C*>(params.cells);
      const C* c_before = step.t == step.start ? static_cast<const C*>(params.c0) + b * H
                                               : cells + (place + step.back * B) * H;
      const Vector<C> tanh_c = tanh(load_first<C>(cells + place * H + u, left));
      C* dc_state = static_cast<C*>(params.dc) + b * H + u;
      dh += load_first<C>(sequence(params.dy, place, H) + u, left);
      const Vector<C> dc = load_first<C>(dc_state, left) + dh * o * (1 - tanh_c * tanh_c);
      da[0] = dc * g * i * (1 - i);
      da[1] = dc * load_first<C>(c_before + u, left) * f * (1 - f);
      da[2] = dc * i * (1 - g * g);
      da[3] = dh * tanh_c * o * (1 - o);
      store_first(dc_state, dc * f, left);
    }
    for (int64_t gate = 0; gate < 4; ++gate) {
      store_first(dgates + gate * H, da[gate], left);
      if constexpr (!std::is_same_v<S, E>) {
        E* next = static_cast<E*>(params.da[1 - step.parity]) + b * 4 * H + u;
        store_first(next + gate * H, da[gate], left);
      }
    }
  }
};
