// Pooling over each row's valid positions: the last, the largest and the mean vector, and back.
//
// Included by instruction_set.h inside its namespace, after layers.h.
//
//   pooled[b]      = output[b][end - 1], max over t of output[b][t], sum over t of output[b][t] / n
//                    t from start to end, n = end - start
//   d_output[b][t] = d_mean / n, + d_last where t is end - 1, + d_largest where t is argmax; 0 elsewhere
//
// Layout    as in launchers.h; output lies as it does, only numbers of a position are side by side.
// Memory    valid positions are read once, every number of d_output is written once. What is known of
//           kPoolColumns columns stays in the first cache.
// Numbers   sums in C: runs of kRun positions, then the runs, so an error is that of
//           kRun + n / kRun roundings. The first of equals is the largest; NaN is larger than all.

template <typename S>
struct Pooling {
  using C = SumOf<S>;
  using V = Vector<C>;
  using Index = decltype(V{} < V{});
  using Position = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  static constexpr int64_t kRun = 32;
  static constexpr int kUnits = kLanes<C>;
  static constexpr int64_t kVectors = kPoolColumns / kUnits;

  static void forward(const PoolParams& params, int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task)
      pool(params, task / params.n_blocks(), task % params.n_blocks() * kPoolColumns);
  }

  static void backward(const PoolParams& params, int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task)
      spread(params, task / params.n_blocks(), task % params.n_blocks() * kPoolColumns);
  }

 private:
  static void pool(const PoolParams& params, int64_t b, int64_t first_column) {
    const int64_t start = params.start[b], end = params.end[b], stride = params.step_stride;
    const int64_t n = std::min(kPoolColumns, params.E - first_column);
    const S* x = static_cast<const S*>(params.output) + b * params.row_stride + first_column;
    V largest[kVectors], run[kVectors], total[kVectors] = {};
    Index place[kVectors];
    for (int64_t i = 0, k = 0; i < n; i += kUnits, ++k) {
      largest[k] = load_first<C>(x + start * stride + i, n - i);
      place[k] = Index{} + static_cast<Position>(start);
    }
    for (int64_t t0 = start; t0 < end; t0 += kRun) {
      std::fill_n(run, kVectors, V{});
      for (int64_t t = t0; t < std::min(end, t0 + kRun); ++t) {
        const S* row = x + t * stride;
        const Index here = Index{} + static_cast<Position>(t);
        for (int64_t i = 0, k = 0; i < n; i += kUnits, ++k) {
          __builtin_prefetch(row + stride + i);
          const V z = load_first<C>(row + i, n - i);
          // NaN is not smaller than anything, and nothing comes after it.
          const Index better = ~(z <= largest[k]) & (largest[k] == largest[k]);
          largest[k] = better ? z : largest[k];
          place[k] = better ? here : place[k];
          run[k] += z;
        }
      }
      for (int64_t k = 0; k * kUnits < n; ++k) total[k] += run[k];
    }
    S* pooled = static_cast<S*>(params.pooled) + b * 3 * params.E + first_column;
    std::copy_n(x + (end - 1) * stride, n, pooled);
    for (int64_t i = 0, k = 0; i < n; i += kUnits, ++k) {
      store_first(pooled + params.E + i, largest[k], n - i);
      store_first(pooled + 2 * params.E + i, total[k] / static_cast<C>(end - start), n - i);
    }
    int64_t* argmax = params.argmax + b * params.E + first_column;
    for (int64_t i = 0; i < n; ++i) argmax[i] = place[i / kUnits][i % kUnits];
  }

  static void spread(const PoolParams& params, int64_t b, int64_t first_column) {
    const int64_t start = params.start[b], end = params.end[b], E = params.E;
    const int64_t n = std::min(kPoolColumns, E - first_column);
    const S* grad = static_cast<const S*>(params.grad) + b * 3 * E + first_column;
    const int64_t* argmax = params.place + b * E + first_column;
    V share[kVectors], largest[kVectors];
    Index place[kVectors] = {};
    for (int64_t i = 0; i < n; ++i)
      place[i / kUnits][i % kUnits] = static_cast<Position>(argmax[i]);
    for (int64_t i = 0, k = 0; i < n; i += kUnits, ++k) {
      largest[k] = load_first<C>(grad + E + i, n - i);
      share[k] = load_first<C>(grad + 2 * E + i, n - i) / static_cast<C>(end - start);
    }
    for (int64_t t = 0; t < params.T; ++t) {
      S* out = static_cast<S*>(params.d_output) + (b * params.T + t) * E + first_column;
      if (t < start || t >= end) {
        std::fill_n(out, n, S(0.0f));
        continue;
      }
      const Index here = Index{} + static_cast<Position>(t);
      for (int64_t i = 0, k = 0; i < n; i += kUnits, ++k) {
        V d = share[k];
        if (t == end - 1) d += load_first<C>(grad + i, n - i);
        store_first(out + i, place[k] == here ? d + largest[k] : d, n - i);
      }
    }
  }
};
