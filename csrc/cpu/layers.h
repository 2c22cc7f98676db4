// One pass over a sequence for dropout, AR and TAR, forward and backward; one for the look-up of
// embeddings and one for the gradient of their table.
//
// Included by instruction_set.h inside its namespace, after pack.h and adamw.h.
//
//   dropped[t][n] = keep(n) ? x[t][n] * scale : +0, rounded to S           keep as in philox.h
//   sums          of dropped^2 and of (x[t] - x[t - 1])^2
//   dx[t][n]      = keep(n) ? (activation dropped + d_dropped) * scale : 0
//                   + jump ((x[t] - x[t - 1]) - (x[t + 1] - x[t]))
//   embedded[i]   = keep(ids[i]) ? table[ids[i]] * scale : +0
//   dtable[v]     = keep(v) ? scale * sum of grad[i] over the i with ids[i] = v, ascending : +0
//
// Layout    as in launchers.h: a mask is one of a step, B E numbers, and of words.
// Memory    x is read once, out written once: a task's rows of kTaskColumns numbers, the one before
//           and the one behind stay in the first cache, as do the mask's factors, drawn once a task.
//           Every row of the table's gradient is written once; its tokens are a list in their order.
// Numbers   arithmetic in C: float, or double for double. Squares are summed in C over a row of a task,
//           a few per lane, above that in float64, and over the tasks in their order: the result does
//           not depend on the number of threads. A dropped NaN is +0.

template <typename S>
using SumOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

ULMFIT_FAST_INLINE Vector<double> load_wide(const double* source) { return load(source); }

// The sum of what two chains of additions hold, in float64.
template <typename C>
ULMFIT_FAST_INLINE void add_wide(const Vector<C> (&chains)[2], Vector<double>& sum) {
  C stored[2 * kLanes<C>];
  for (int k = 0; k < 2; ++k) store(stored + k * kLanes<C>, chains[k]);
  for (int i = 0; i < 2 * kLanes<C>; i += kLanes<double>) sum += load_wide(stored + i);
}

// The part of a sequence that a task has.
struct SequenceTask {
  int64_t first_step, last_step, first_column, n;

  SequenceTask(const SequenceParams& params, int64_t task)
      : first_step(task / params.n_blocks() * kTaskSteps),
        last_step(std::min(params.T, first_step + kTaskSteps)),
        first_column(task % params.n_blocks() * kTaskColumns),
        n(std::min(kTaskColumns, params.N - first_column)) {}

  int64_t at(const SequenceParams& params, int64_t t) const { return t * params.N + first_column; }

  template <typename C>
  void draw(const Mask& mask, C (&factors)[kTaskColumns]) const {
    for (int64_t i = 0; i < n; i += kChunk)
      mask_factors<kChunk>(mask, static_cast<uint64_t>(first_column + i), factors + i);
  }
};

template <typename S, bool kDrop, bool kSums>
void sequence_task(const SequenceParams& params, const SequenceTask& task, double* sums) {
  using C = SumOf<S>;
  C factors[kTaskColumns];
  if constexpr (kDrop) task.draw(params.mask, factors);
  Vector<double> squares{}, jumps{};
  for (int64_t t = task.first_step; t < task.last_step; ++t) {
    const S* x = static_cast<const S*>(params.x) + task.at(params, t);
    const S* before = t > 0 ? x - params.N : x;
    S* out = static_cast<S*>(params.out);
    if constexpr (kDrop) out += task.at(params, t);
    Vector<C> of_row[2] = {}, of_jump[2] = {};
    for (int64_t i = 0, k = 0; i < task.n; i += kLanes<C>, k ^= 1) {
      const int64_t n = task.n - i;
      __builtin_prefetch(x + params.N + i);
      const Vector<C> value = load_first<C>(x + i, n);
      Vector<C> dropped = value;
      if constexpr (kDrop) {
        dropped = times(value, load(factors + i));
        store_first(out + i, dropped, n);
      }
      if constexpr (kSums) {
        if constexpr (kDrop) dropped = rounded_to<S>(dropped);
        const Vector<C> jump = value - load_first<C>(before + i, n);
        of_row[k] += dropped * dropped;
        of_jump[k] += jump * jump;
      }
    }
    if constexpr (kSums) {
      add_wide<C>(of_row, squares);
      if (t > 0) add_wide<C>(of_jump, jumps);
    }
  }
  if constexpr (kSums) {
    sums[0] = sums[1] = 0;
    for (int lane = 0; lane < kLanes<double>; ++lane) {
      sums[0] += squares[lane];
      sums[1] += jumps[lane];
    }
  }
}

template <typename S>
void sequence(const SequenceParams& params, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const SequenceTask task(params, i);
    if (!params.mask.drop) {
      sequence_task<S, false, true>(params, task, params.sums + 2 * i);
    } else if (params.sums != nullptr) {
      sequence_task<S, true, true>(params, task, params.sums + 2 * i);
    } else {
      sequence_task<S, true, false>(params, task, nullptr);
    }
  }
}

template <typename S, bool kDrop>
void sequence_backward_task(const SequenceParams& params, const SequenceTask& task) {
  using C = SumOf<S>;
  C factors[kTaskColumns];
  if constexpr (kDrop) task.draw(params.mask, factors);
  const C activation = static_cast<C>(params.activation), of_jump = static_cast<C>(params.jump);
  for (int64_t t = task.first_step; t < task.last_step; ++t) {
    const S* x = static_cast<const S*>(params.x) + task.at(params, t);
    const S* d_dropped = static_cast<const S*>(params.d_dropped);
    if constexpr (kDrop) d_dropped += task.at(params, t);
    S* out = static_cast<S*>(params.out) + task.at(params, t);
    const bool has_before = t > 0, has_next = t + 1 < params.T;
    for (int64_t i = 0; i < task.n; i += kLanes<C>) {
      const int64_t n = task.n - i;
      __builtin_prefetch(x + 2 * params.N + i);
      const Vector<C> value = load_first<C>(x + i, n);
      Vector<C> dx = activation * value, jump{};
      if constexpr (kDrop) {
        __builtin_prefetch(d_dropped + params.N + i);
        const Vector<C> factor = load(factors + i);
        const Vector<C> dropped = rounded_to<S>(times(value, factor));
        dx = times(activation * dropped + load_first<C>(d_dropped + i, n), factor);
      }
      if (has_before) jump = value - load_first<C>(x - params.N + i, n);
      if (has_next) jump -= load_first<C>(x + params.N + i, n) - value;
      store_first(out + i, dx + of_jump * jump, n);
    }
  }
}

template <typename S>
void sequence_backward(const SequenceParams& params, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const SequenceTask task(params, i);
    if (params.mask.drop) {
      sequence_backward_task<S, true>(params, task);
    } else {
      sequence_backward_task<S, false>(params, task);
    }
  }
}

// What a word's numbers are multiplied by; 0: it is dropped.
ULMFIT_FAST_INLINE double word_factor(const Mask& mask, int64_t id) {
  if (!mask.drop) return 1;
  const PhiloxBlock drawn = mask_words(static_cast<uint64_t>(id / kWordsPerBlock), mask.seed);
  return drawn.word[id % kWordsPerBlock] >= mask.threshold ? mask.scale : 0;
}

template <typename S>
void embed(const EmbeddingParams& params, int64_t first, int64_t last) {
  using C = SumOf<S>;
  const int64_t E = params.E;
  for (int64_t token = first; token < last; ++token) {
    const S* row = static_cast<const S*>(params.rows) + params.ids[token] * params.row_stride;
    S* out = static_cast<S*>(params.out) + token * E;
    const C factor = static_cast<C>(word_factor(params.mask, params.ids[token]));
    if (!params.mask.drop) {
      std::copy_n(row, E, out);
    } else if (factor == 0) {
      std::fill_n(out, E, S(0.0f));
    } else {
      for (int64_t e = 0; e < E; e += kLanes<C>)
        store_first(out + e, load_first<C>(row + e, E - e) * factor, E - e);
    }
  }
}

template <typename S>
void embed_backward(const EmbeddingParams& params, int64_t first, int64_t n) {
  using C = SumOf<S>;
  const int64_t E = params.E;
  C sums[kTaskColumns];
  for (int64_t word = first; word < params.V; word += n) {
    S* out = static_cast<S*>(params.out) + word * E;
    const int64_t token = params.first[word];
    const C factor = token < 0 ? C{0} : static_cast<C>(word_factor(params.mask, word));
    if (factor == 0) {
      std::fill_n(out, E, S(0.0f));
      continue;
    }
    for (int64_t e0 = 0; e0 < E; e0 += kTaskColumns) {
      const int64_t count = std::min(kTaskColumns, E - e0);
      std::fill_n(sums, kTaskColumns, C{0});
      for (int64_t i = token; i >= 0; i = params.next[i]) {
        const S* grad = static_cast<const S*>(params.rows) + i * params.row_stride + e0;
        for (int64_t e = 0; e < count; e += kLanes<C>)
          store(sums + e, load(sums + e) + load_first<C>(grad + e, count - e));
      }
      for (int64_t e = 0; e < count; e += kLanes<C>)
        store_first(out + e0 + e, load(sums + e) * factor, count - e);
    }
  }
}
