// The kernels of one instruction set: included once by each instruction_set_*.cpp, which defines
//
//   ULMFIT_FAST_ISA        name of the namespace and of the function that returns its kernels
//   ULMFIT_FAST_VECTOR     bytes of a vector register
//   ULMFIT_FAST_ROWS       rows of a tile: 4 * (rows + 1) vectors and a factor fit the registers
//   ULMFIT_FAST_PRODUCTS   whether products of whole sequences are ours or torch's
//   ULMFIT_FAST_HAS_PAIRS  if there is an instruction for pairs of bfloat16
//   ULMFIT_FAST_HAS_TILES  if there are matrix units for them as well
//
// after it has included instruction_set_headers.h and chosen its target with a pragma: code of the
// standard library must not be compiled for one instruction set and linked into another's.

namespace ulmfit_fast::ULMFIT_FAST_ISA {
namespace {

constexpr int kVectorBytes = ULMFIT_FAST_VECTOR;
constexpr int kRows = ULMFIT_FAST_ROWS;

// In the order of use.
// clang-format off
#include "vector.h"
#include "product.h"
#ifdef ULMFIT_FAST_HAS_TILES
#include "tiles.h"
#endif
#include "pack.h"
#include "lstm_step.h"
#include "sequence_product.h"
#include "loss.h"
#include "adamw.h"
#include "layers.h"
#include "pool.h"
// clang-format on

template <typename S, typename Operand>
LstmKernels make_kernels() {
  using C = ComputeOf<Operand>;
  LstmKernels kernels{};
  kernels.n_units = kLanes<C>;
  kernels.n_columns = kColumns<C>;
  kernels.n_tile_rows = std::max<int64_t>(kRows, Product<Operand>::kReadRows);
  kernels.n_chunk_rows = kMaxRows;
  kernels.depth = Product<Operand>::kDepth;
  kernels.n_read_rows = Product<Operand>::kReadRows;
  kernels.pairs = kPaired<Operand>;
  kernels.pack_gates = &pack_gates<S, Operand>;
  kernels.pack_rows = &pack_rows<S, Operand>;
  kernels.forward = &LstmStepper<S, Operand>::forward;
  kernels.backward = &LstmStepper<S, Operand>::backward;
  if constexpr (std::is_same_v<S, ElementOf<Operand>> && ULMFIT_FAST_PRODUCTS) {
    kernels.gates_product = &SequenceProduct<S, Operand>::gates;
    kernels.rows_product = &SequenceProduct<S, Operand>::rows;
    kernels.transposed_product = &SequenceProduct<S, Operand>::transposed;
  }
  return kernels;
}

template <typename S, typename Operand>
LossKernels make_loss_kernels() {
  using Passes = LossPasses<S, Operand>;
  LossKernels kernels{};
  kernels.n_columns = Passes::kWidth;
  kernels.depth = Passes::kDepth;
  kernels.pairs = Passes::kPaired;
  kernels.keeps_logits = Product<Operand>::kIsSlow;
  kernels.copies_weight = Passes::kPaired || !std::is_same_v<S, ElementOf<Operand>>;
  kernels.pack_hidden = &Passes::pack_hidden;
  kernels.pack_weight = &Passes::pack_weight;
  kernels.statistics = &Passes::statistics;
  kernels.gradients = &Passes::gradients;
  kernels.write_dh = &Passes::write_dh;
  return kernels;
}

template <typename S>
LayerKernels make_layer_kernels() {
  return {&sequence<S>, &sequence_backward<S>, &Pooling<S>::forward, &Pooling<S>::backward,
          &embed<S>,    &embed_backward<S>};
}

// The kernels of every storage type.
template <typename Kernels>
struct ByDType {
  Kernels of_float32, of_float64, of_bfloat16, of_float16;

  const Kernels& of(DType dtype) const {
    switch (dtype) {
      case DType::kFloat32:
        return of_float32;
      case DType::kFloat64:
        return of_float64;
      case DType::kBFloat16:
        return of_bfloat16;
      case DType::kFloat16:
        break;
    }
    return of_float16;
  }
};

#if defined(ULMFIT_FAST_HAS_TILES)
using ProductOfBFloat16 = Tiles;
#elif defined(ULMFIT_FAST_HAS_PAIRS)
using ProductOfBFloat16 = Pair;
#else
using ProductOfBFloat16 = float;
#endif

}  // namespace

const LstmKernels& lstm_kernels(DType dtype) {
  static const ByDType<LstmKernels> kernels{
      make_kernels<float, float>(), make_kernels<double, double>(),
      make_kernels<c10::BFloat16, ProductOfBFloat16>(), make_kernels<c10::Half, float>()};
  return kernels.of(dtype);
}

const LossKernels& loss_kernels(DType dtype) {
  static const ByDType<LossKernels> kernels{
      make_loss_kernels<float, float>(), make_loss_kernels<double, double>(),
      make_loss_kernels<c10::BFloat16, ProductOfBFloat16>(), make_loss_kernels<c10::Half, float>()};
  return kernels.of(dtype);
}

const LayerKernels& layer_kernels(DType dtype) {
  static const ByDType<LayerKernels> kernels{
      make_layer_kernels<float>(), make_layer_kernels<double>(),
      make_layer_kernels<c10::BFloat16>(), make_layer_kernels<c10::Half>()};
  return kernels.of(dtype);
}

const AdamwKernels& adamw_kernels() {
  static const AdamwKernels kernels{&sum_of_squares, &update};
  return kernels;
}

}  // namespace ulmfit_fast::ULMFIT_FAST_ISA
