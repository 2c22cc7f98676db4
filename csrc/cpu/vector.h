// Vectors of one instruction set: loads and stores that convert, exp, sigmoid, tanh.
//
// Included by instruction_set.h inside its namespace, once per instruction set; kVectorBytes is the
// width of a register there. A vector holds kLanes<C> numbers of the compute type C.
//
// Numbers   exp errs by 2 ulp, sigmoid and tanh by 4, relative, also near 0 (tests/test_cpu_lstm.py);
//           NaN in, NaN out. float64 takes the C library's functions.
// Source    the polynomials of exp and tanh are those of Cephes (Moshier, 1989), expf and tanhf.

template <typename C>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

// A register's width of C; the second kind may lie at any address of the element.
template <typename C>
struct VectorType {
  typedef C type __attribute__((vector_size(kVectorBytes)));
  typedef C unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(C)), may_alias));
};
template <typename C>
using Vector = typename VectorType<C>::type;
using Words = typename VectorType<int32_t>::type;

typedef uint16_t HalfWords __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t UnsignedWords __attribute__((vector_size(kVectorBytes)));

ULMFIT_FAST_INLINE Vector<float> load(const float* source) {
  return *reinterpret_cast<const VectorType<float>::unaligned*>(source);
}

ULMFIT_FAST_INLINE Vector<double> load(const double* source) {
  return *reinterpret_cast<const VectorType<double>::unaligned*>(source);
}

ULMFIT_FAST_INLINE void store(float* target, Vector<float> v) {
  *reinterpret_cast<VectorType<float>::unaligned*>(target) = v;
}

ULMFIT_FAST_INLINE void store(double* target, Vector<double> v) {
  *reinterpret_cast<VectorType<double>::unaligned*>(target) = v;
}

ULMFIT_FAST_INLINE Vector<float> load(const c10::BFloat16* source) {
  HalfWords bits;
  std::memcpy(&bits, source, sizeof(bits));
  const UnsignedWords wide = __builtin_convertvector(bits, UnsignedWords) << 16;
  Vector<float> v;
  std::memcpy(&v, &wide, sizeof(v));
  return v;
}

// Rounds to nearest, ties to even, as torch does.
ULMFIT_FAST_INLINE void store(c10::BFloat16* target, Vector<float> v) {
  UnsignedWords bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const UnsignedWords rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const UnsignedWords not_a_number = UnsignedWords{} + 0x7FC0u;
  const HalfWords half = __builtin_convertvector(v == v ? rounded : not_a_number, HalfWords);
  std::memcpy(target, &half, sizeof(half));
}

// Rounds to nearest, ties to even: an instruction on x86-64 from AVX2 on.
#if ULMFIT_FAST_VECTOR == 64
ULMFIT_FAST_INLINE Vector<float> load(const c10::Half* source) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return reinterpret_cast<Vector<float>>(_mm512_cvtph_ps(half));
}

ULMFIT_FAST_INLINE void store(c10::Half* target, Vector<float> v) {
  const __m256i half = _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), half);
}
#elif ULMFIT_FAST_VECTOR == 32
ULMFIT_FAST_INLINE Vector<float> load(const c10::Half* source) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return reinterpret_cast<Vector<float>>(_mm256_cvtph_ps(half));
}

ULMFIT_FAST_INLINE void store(c10::Half* target, Vector<float> v) {
  const __m128i half = _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), half);
}
#else
ULMFIT_FAST_INLINE Vector<float> load(const c10::Half* source) {
  Vector<float> v;
  for (int lane = 0; lane < kLanes<float>; ++lane) v[lane] = static_cast<float>(source[lane]);
  return v;
}

ULMFIT_FAST_INLINE void store(c10::Half* target, Vector<float> v) {
  for (int lane = 0; lane < kLanes<float>; ++lane) target[lane] = static_cast<c10::Half>(v[lane]);
}
#endif

// The first n of a vector's elements; the rest is 0.
template <typename C, typename S>
ULMFIT_FAST_INLINE Vector<C> load_first(const S* source, int64_t n) {
  if (n >= kLanes<C>) return load(source);
  S padded[kLanes<C>] = {};
  for (int64_t lane = 0; lane < n; ++lane) padded[lane] = source[lane];
  return load(padded);
}

template <typename S, typename V>
ULMFIT_FAST_INLINE void store_first(S* target, V v, int64_t n) {
  constexpr int kCount = sizeof(V) / sizeof(v[0]);
  if (n >= kCount) return store(target, v);
  S padded[kCount];
  store(padded, v);
  for (int64_t lane = 0; lane < n; ++lane) target[lane] = padded[lane];
}

// What is left of a number after it was stored as S and read again.
template <typename S, typename V>
ULMFIT_FAST_INLINE V rounded_to(V v) {
  S stored[sizeof(V) / sizeof(v[0])];
  store(stored, v);
  return load(stored);
}

// exp for |r| <= ln(2) / 2.
ULMFIT_FAST_INLINE Vector<float> exp_of_rest(Vector<float> r) {
  Vector<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r + 1.0f;
}

ULMFIT_FAST_INLINE Vector<float> exp(Vector<float> x) {
  // Beyond these, exp is 0 or infinite in float32; the comparisons let NaN pass.
  const Vector<float> low = Vector<float>{} - 87.33654f, high = Vector<float>{} + 88.72283f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits.
  const Vector<float> shifted = x * 1.44269504f + 12582912.0f;
  const Vector<float> n = shifted - 12582912.0f;
  const Vector<float> p = exp_of_rest((x - n * 0.693359375f) + n * 2.12194440e-4f);
  // 2^n in two factors, because 2^128 is no float32 and x = 88.7 needs it.
  Words exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  exponent = exponent - 0x4B400000;
  const Words half = exponent >> 1;
  const Words bits[2] = {(half + 127) << 23, (exponent - half + 127) << 23};
  Vector<float> factor[2];
  std::memcpy(factor, bits, sizeof(factor));
  return p * factor[0] * factor[1];
}

// exp where x <= 88: 2^n is then a float32. 0 where it would be denormal.
ULMFIT_FAST_INLINE Vector<float> exp_below_88(Vector<float> given) {
  const Vector<float> low = Vector<float>{} - 87.33654f;
  const Vector<float> x = given < low ? low : given;
  const Vector<float> shifted = x * 1.44269504f + 12582912.0f;
  const Vector<float> n = shifted - 12582912.0f;
  Words exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  const Words bits = (exponent - (0x4B400000 - 127)) << 23;
  Vector<float> factor;
  std::memcpy(&factor, &bits, sizeof(factor));
  const Vector<float> y = exp_of_rest((x - n * 0.693359375f) + n * 2.12194440e-4f) * factor;
  return given < low ? Vector<float>{} : y;
}

ULMFIT_FAST_INLINE Vector<double> exp(Vector<double> x) {
  Vector<double> y;
  for (int lane = 0; lane < kLanes<double>; ++lane) y[lane] = std::exp(x[lane]);
  return y;
}

ULMFIT_FAST_INLINE Vector<double> exp_below_88(Vector<double> x) { return exp(x); }

ULMFIT_FAST_INLINE Vector<float> sigmoid(Vector<float> x) { return 1.0f / (1.0f + exp(-x)); }

ULMFIT_FAST_INLINE Vector<float> tanh(Vector<float> x) {
  const Vector<float> magnitude = x < 0.0f ? -x : x;
  const Vector<float> far = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  const Vector<float> z = x * x;
  Vector<float> p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vector<float> near = p * z * x + x;
  return magnitude < 0.625f ? near : (x < 0.0f ? -far : far);
}

ULMFIT_FAST_INLINE Vector<double> sigmoid(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = 1.0 / (1.0 + std::exp(-x[lane]));
  return x;
}

ULMFIT_FAST_INLINE Vector<double> tanh(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::tanh(x[lane]);
  return x;
}
