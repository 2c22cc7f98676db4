// Private ops ulmfit_fast_cuda::lstm_*, the persistent kernels of a whole sequence; called only from
// ulmfit_fast/kernels/lstm_persistent.py, which allocates and chooses. They write over what their
// schemas mark.
#include "bindings_cuda.h"

namespace ulmfit_fast {
namespace {

void check_tensor(const char* name, const Tensor& tensor, const Tensor& beside, ScalarType dtype,
                  std::vector<int64_t> sizes) {
  const auto found = tensor.sizes();
  STD_TORCH_CHECK(
      found.size() == sizes.size() && std::equal(found.begin(), found.end(), sizes.begin()), name,
      ": wrong shape");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, ": wrong dtype");
  STD_TORCH_CHECK(tensor.device() == beside.device(), name, ": expected on the device of w_hh");
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous");
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0, name,
                  ": expected memory that is 16-byte aligned");
}

// What both directions share; exchange and flags live as long as the result.
struct Sequence {
  LstmSequence params{};
  Tensor exchange, flags;
};

Sequence check_sequence(const Tensor& gates, const Tensor& w_hh,
                        const std::optional<Tensor>& lengths, const std::optional<Tensor>& seed,
                        double drop_p, int64_t n_groups, int64_t units,
                        size_t (*exchange_bytes)(int64_t, int64_t, int64_t)) {
  STD_TORCH_CHECK(gates.dim() == 3 && gates.numel() > 0, "gates: expected shape [T, B, 4H]");
  STD_TORCH_CHECK(w_hh.dim() == 2, "w_hh: expected shape [4H, H]");
  const int64_t T = gates.size(0), B = gates.size(1), H = w_hh.size(1);
  const ScalarType storage = w_hh.scalar_type();
  STD_TORCH_CHECK(storage == ScalarType::BFloat16 || storage == ScalarType::Half,
                  "w_hh: expected bfloat16 or float16");
  STD_TORCH_CHECK(H % 2 == 0 && H <= kLstmMaxUnits, "w_hh: expected an even H of at most ",
                  kLstmMaxUnits);
  // Offsets within a time step are 32-bit.
  STD_TORCH_CHECK(T < (int64_t{1} << 30) && B * 4 * H < (int64_t{1} << 31), "gates: too large");
  check_tensor("w_hh", w_hh, w_hh, storage, {4 * H, H});
  check_tensor("gates", gates, w_hh, storage, {T, B, 4 * H});
  const int64_t rows = (B + n_groups - 1) / n_groups;
  STD_TORCH_CHECK(n_groups > 0 && (B + rows - 1) / rows == n_groups, "n_groups: one has no rows");
  if (lengths.has_value()) check_tensor("lengths", *lengths, w_hh, ScalarType::Long, {B});
  check_drop_p(drop_p);
  STD_TORCH_CHECK(drop_p == 0 || seed.has_value(), "seed: a tensor is needed where drop_p > 0");
  if (seed.has_value()) check_seed(*seed, w_hh);

  const auto bytes = [&](size_t n) {
    const std::vector<int64_t> size{static_cast<int64_t>(n)};
    return torch::stable::new_empty(w_hh, size, ScalarType::Byte);
  };
  const int64_t n_blocks = n_groups * ((H + units - 1) / units);
  Sequence sequence{{}, bytes(exchange_bytes(B, H, n_groups)), bytes(lstm_flag_bytes(n_blocks))};
  LstmSequence& p = sequence.params;
  p.T = static_cast<int32_t>(T);
  p.B = static_cast<int32_t>(B);
  p.H = static_cast<int32_t>(H);
  p.n_groups = static_cast<int32_t>(n_groups);
  p.w_hh = w_hh.const_data_ptr();
  p.seed = drop_p > 0 ? seed->const_data_ptr<int64_t>() : nullptr;
  p.threshold = drop_threshold(drop_p);
  p.scale = static_cast<float>(1.0 / (1.0 - drop_p));
  p.lengths = lengths.has_value() ? lengths->const_data_ptr<int64_t>() : nullptr;
  p.exchange = sequence.exchange.mutable_data_ptr();
  p.flags = static_cast<uint32_t*>(sequence.flags.mutable_data_ptr());
  p.dtype = check_dtype("w_hh", w_hh);
  return sequence;
}

void lstm_forward_steps(const Tensor& w_hh, const Tensor& gates, const Tensor& y, const Tensor& h,
                        const Tensor& c, const std::optional<Tensor>& cells,
                        const std::optional<Tensor>& lengths, const std::optional<Tensor>& seed,
                        double drop_p, bool reverse, int64_t first_step, int64_t n_groups) {
  const torch::stable::accelerator::DeviceGuard guard(w_hh.get_device_index());
  Sequence sequence = check_sequence(gates, w_hh, lengths, seed, drop_p, n_groups,
                                     kLstmForwardUnits, lstm_forward_exchange_bytes);
  const int64_t T = gates.size(0), B = gates.size(1), H = w_hh.size(1);
  STD_TORCH_CHECK((B + n_groups - 1) / n_groups <= kLstmMaxRows, "n_groups: more than ",
                  kLstmMaxRows, " rows in one");
  check_tensor("y", y, w_hh, w_hh.scalar_type(), {T, B, H});
  check_tensor("h", h, w_hh, w_hh.scalar_type(), {B, H});
  check_tensor("c", c, w_hh, ScalarType::Float, {B, H});
  if (cells.has_value()) check_tensor("cells", *cells, w_hh, ScalarType::Float, {T, B, H});
  LstmSequenceForward params{sequence.params};
  params.first_step = static_cast<int32_t>(first_step);
  params.reverse = reverse;
  params.h = h.mutable_data_ptr();
  params.c = c.mutable_data_ptr<float>();
  params.gates = gates.mutable_data_ptr();
  params.y = y.mutable_data_ptr();
  params.cells = cells.has_value() ? cells->mutable_data_ptr<float>() : nullptr;
  STD_CUDA_CHECK(launch_lstm_forward(params, current_stream(w_hh)));
}

void lstm_backward_steps(const Tensor& w_hh, const Tensor& dy, const Tensor& gates,
                         const Tensor& cells, const Tensor& c0, const Tensor& dgates,
                         const Tensor& dh, const Tensor& dc, const Tensor& dbias,
                         const std::optional<Tensor>& lengths, const std::optional<Tensor>& seed,
                         double drop_p, bool reverse, int64_t n_groups) {
  const torch::stable::accelerator::DeviceGuard guard(w_hh.get_device_index());
  Sequence sequence = check_sequence(gates, w_hh, lengths, seed, drop_p, n_groups,
                                     kLstmBackwardUnits, lstm_backward_exchange_bytes);
  const int64_t T = gates.size(0), B = gates.size(1), H = w_hh.size(1);
  check_tensor("dy", dy, w_hh, w_hh.scalar_type(), {T, B, H});
  check_tensor("cells", cells, w_hh, ScalarType::Float, {T, B, H});
  check_tensor("c0", c0, w_hh, ScalarType::Float, {B, H});
  check_tensor("dgates", dgates, w_hh, w_hh.scalar_type(), {T, B, 4 * H});
  check_tensor("dh", dh, w_hh, ScalarType::Float, {B, H});
  check_tensor("dc", dc, w_hh, ScalarType::Float, {B, H});
  check_tensor("dbias", dbias, w_hh, ScalarType::Float, {n_groups, 4 * H});
  LstmSequenceBackward params{sequence.params};
  params.reverse = reverse;
  params.dy = dy.const_data_ptr();
  params.gates = gates.const_data_ptr();
  params.cells = cells.const_data_ptr<float>();
  params.c0 = c0.const_data_ptr<float>();
  params.dgates = dgates.mutable_data_ptr();
  params.dh = dh.mutable_data_ptr<float>();
  params.dc = dc.mutable_data_ptr<float>();
  params.dbias = dbias.mutable_data_ptr<float>();
  STD_CUDA_CHECK(launch_lstm_backward(params, current_stream(w_hh)));
}

int64_t lstm_resident_blocks(const Tensor& w_hh, bool backward) {
  const torch::stable::accelerator::DeviceGuard guard(w_hh.get_device_index());
  const auto blocks = backward ? lstm_backward_blocks : lstm_forward_blocks;
  int found = 0;
  STD_CUDA_CHECK(blocks(w_hh.size(1), check_dtype("w_hh", w_hh), &found));
  return found;
}

}  // namespace
}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cuda, m) {
  m.def(
      "lstm_forward_steps(Tensor w_hh, Tensor(a!) gates, Tensor(b!) y, Tensor(c!) h, Tensor(d!) c, "
      "Tensor(e!)? cells, Tensor? lengths, Tensor? seed, float drop_p, bool reverse, "
      "int first_step, int n_groups) -> ()");
  m.def(
      "lstm_backward_steps(Tensor w_hh, Tensor dy, Tensor gates, Tensor cells, Tensor c0, "
      "Tensor(a!) dgates, Tensor(b!) dh, Tensor(c!) dc, Tensor(d!) dbias, Tensor? lengths, "
      "Tensor? seed, float drop_p, bool reverse, int n_groups) -> ()");
  m.def("lstm_resident_blocks(Tensor w_hh, bool backward) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cuda, CUDA, m) {
  m.impl("lstm_forward_steps", TORCH_BOX(&ulmfit_fast::lstm_forward_steps));
  m.impl("lstm_backward_steps", TORCH_BOX(&ulmfit_fast::lstm_backward_steps));
  m.impl("lstm_resident_blocks", TORCH_BOX(&ulmfit_fast::lstm_resident_blocks));
}
