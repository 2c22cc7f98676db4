// AdamW's two passes over a part of a tensor: the sum of squares, and the update.
//
// Included by instruction_set.h inside its namespace, once per instruction set, after vector.h.
//
// Memory    sum of squares: 4 B an element read. Update: 16 B read, 12 B written, and 2 B of the bfloat16
//           copy, 8 B of the average. Nothing is read twice; 4 to 6 streams go in step.
// Numbers   squares are summed in float32 over runs of 32, above that in float64; a tile whose squares
//           overflow float32, or are near to vanish in it, is summed again in float64 throughout.
//           Elements beyond the last whole vector go through a padded one: an element's result does
//           not depend on where it stands.

#if ULMFIT_FAST_VECTOR == 64
ULMFIT_FAST_INLINE Vector<float> square_root(const Vector<float>& x) {
  return reinterpret_cast<Vector<float>>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
}
ULMFIT_FAST_INLINE Vector<double> load_wide(const float* source) {
  return reinterpret_cast<Vector<double>>(_mm512_cvtps_pd(_mm256_loadu_ps(source)));
}
#elif ULMFIT_FAST_VECTOR == 32
ULMFIT_FAST_INLINE Vector<float> square_root(const Vector<float>& x) {
  return reinterpret_cast<Vector<float>>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
}
ULMFIT_FAST_INLINE Vector<double> load_wide(const float* source) {
  return reinterpret_cast<Vector<double>>(_mm256_cvtps_pd(_mm_loadu_ps(source)));
}
#else
ULMFIT_FAST_INLINE Vector<float> square_root(const Vector<float>& x) {
  Vector<float> root;
  for (int lane = 0; lane < kLanes<float>; ++lane) root[lane] = std::sqrt(x[lane]);
  return root;
}
ULMFIT_FAST_INLINE Vector<double> load_wide(const float* source) {
  Vector<double> wide;
  for (int lane = 0; lane < kLanes<double>; ++lane) wide[lane] = double{source[lane]};
  return wide;
}
#endif

// Bytes from a load to what is asked for meanwhile: a page, which the processor's own prefetching
// does not cross.
constexpr int kAhead = 4096;

ULMFIT_FAST_INLINE void prefetch(const float* stream) {
  __builtin_prefetch(reinterpret_cast<const char*>(stream) + kAhead);
}

// kChains vectors at a time, as additions wait for their like.
constexpr int kChains = 8;

ULMFIT_FAST_INLINE double sum_of_lanes(Vector<double> (&sums)[kChains]) {
  for (int n = kChains / 2; n > 0; n /= 2) {
    for (int k = 0; k < n; ++k) sums[k] += sums[k + n];
  }
  double total = 0;
  for (int lane = 0; lane < kLanes<double>; ++lane) total += sums[0][lane];
  return total;
}

// Every square in float64: for numbers whose squares float32 does not hold.
inline double wide_sum_of_squares(const float* grad, int64_t n) {
  Vector<double> sums[kChains] = {};
  for (int64_t i = 0; i < n; i += kChains * kLanes<double>) {
    float padded[kChains * kLanes<double>] = {};
    const int64_t count = std::min<int64_t>(n - i, kChains * kLanes<double>);
    std::memcpy(padded, grad + i, count * sizeof(float));
    for (int k = 0; k < kChains; ++k) {
      const Vector<double> g = load_wide(padded + k * kLanes<double>);
      sums[k] += g * g;
    }
  }
  return sum_of_lanes(sums);
}

inline double sum_of_squares(const AdamwTensor& tensor, int64_t first, int64_t last) {
  // Sums of kTerms squares are added kRuns at a time in float32, so that an error is that of twelve
  // roundings, not of 32; what they add up to goes on in float64.
  constexpr int kTerms = 8, kRuns = 4;
  constexpr int64_t kRun = int64_t{kTerms} * kChains * kLanes<float>, kChunk = kRuns * kRun;
  Vector<double> sums[kChains] = {};
  const auto add_chunk = [&sums](const float* grad) {
    Vector<float> squares[kChains] = {};
    for (int run = 0; run < kRuns; ++run, grad += kRun) {
      Vector<float> of_run[kChains] = {};
      for (int term = 0; term < kTerms; ++term) {
#pragma GCC unroll 8
        for (int k = 0; k < kChains; ++k) {
          const float* source = grad + (term * kChains + k) * kLanes<float>;
          prefetch(source);
          const Vector<float> g = load(source);
          of_run[k] += g * g;
        }
      }
      for (int k = 0; k < kChains; ++k) squares[k] += of_run[k];
    }
    float stored[kChains * kLanes<float>];
    for (int k = 0; k < kChains; ++k) store(stored + k * kLanes<float>, squares[k]);
    for (int k = 0; k < 2 * kChains; ++k) {
      sums[k / 2] += load_wide(stored + k * kLanes<double>);
    }
  };
  const float* grad = tensor.grad;
  int64_t i = first;
  for (; i + kChunk <= last; i += kChunk) add_chunk(grad + i);
  if (i < last) {
    float padded[kChunk] = {};
    std::memcpy(padded, grad + i, (last - i) * sizeof(float));
    add_chunk(padded);
  }
  const double total = sum_of_lanes(sums);
  // Squares below 2^-126 lose digits: less than 2^-25 of a sum above this.
  constexpr double kLeast = 0x1p-110;
  const bool holds = total > kLeast && total < std::numeric_limits<double>::infinity();
  return holds ? total : wide_sum_of_squares(grad + first, last - first);
}

// A vector's elements of a tensor, or its first n.
template <bool kShadow, bool kAverage>
struct VectorUpdate {
  float *param, *exp_avg, *exp_avg_sq;
  const float* grad;
  c10::BFloat16* shadow;
  float* average;
  AdamwFactors factors;  // a copy: a store through a float* cannot change it
  float scale;

  ULMFIT_FAST_INLINE void operator()(int64_t i, int64_t n) const {
    prefetch(grad + i);
    prefetch(param + i);
    prefetch(exp_avg + i);
    prefetch(exp_avg_sq + i);
    const auto root = [](const Vector<float>& x) { return square_root(x); };
    Vector<float> p = load_first<float>(param + i, n), m = load_first<float>(exp_avg + i, n);
    Vector<float> v = load_first<float>(exp_avg_sq + i, n);
    adamw_update(p, load_first<float>(grad + i, n), m, v, scale, factors, root);
    store_first(param + i, p, n);
    store_first(exp_avg + i, m, n);
    store_first(exp_avg_sq + i, v, n);
    if constexpr (kShadow) store_first(shadow + i, p, n);
    if constexpr (kAverage) {
      const Vector<float> a = load_first<float>(average + i, n);
      store_first(average + i, factors.average == 1.0f ? p : a + factors.average * (p - a), n);
    }
  }
};

template <bool kShadow, bool kAverage>
ULMFIT_FAST_INLINE void update_vectors(const AdamwTensor& tensor, const AdamwFactors& factors,
                                       float scale, int64_t first, int64_t last) {
  const VectorUpdate<kShadow, kAverage> update{tensor.param,
                                               tensor.exp_avg,
                                               tensor.exp_avg_sq,
                                               tensor.grad,
                                               static_cast<c10::BFloat16*>(tensor.shadow),
                                               tensor.average,
                                               factors,
                                               scale};
  int64_t i = first;
  for (; i + kLanes<float> <= last; i += kLanes<float>) update(i, kLanes<float>);
  if (i < last) update(i, last - i);
}

inline void update(const AdamwTensor& tensor, const AdamwFactors& factors, float scale,
                   int64_t first, int64_t last) {
  const bool averages = tensor.average != nullptr;
  if (tensor.shadow != nullptr) {
    if (averages) return update_vectors<true, true>(tensor, factors, scale, first, last);
    return update_vectors<true, false>(tensor, factors, scale, first, last);
  }
  if (averages) return update_vectors<false, true>(tensor, factors, scale, first, last);
  return update_vectors<false, false>(tensor, factors, scale, first, last);
}
