// Runs the kernels of csrc/cuda/layerwise_adamw.cu on the emulator, under several schedules and
// grids, all of which have to give the same bits.
//
//   run_adamw CASE RESULT FIRST_SEED N_SEEDS MULTIPROCESSORS [MUTATION]
//
// CASE: a Header, the layers, grad_scale, found_inf, grad_norm, skipped_steps and ticket, and of every
// tensor a Shape, then param, grad, exp_avg, exp_avg_sq, shadow, average, step, n_averaged. RESULT: of
// every tensor what it has but its gradient, then grad_norm, skipped_steps, ticket. Multiprocessors
// are numbers with commas between them, which the seeds take in turn. Exits with 1 and one line where a
// launch failed, or schedules differ.
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/launchers.h"
#include "cases.h"

using namespace ulmfit_fast;
using host::Buffer;

namespace {

struct Header {
  int64_t n_tensors, n_layers, has_shadow, has_average, has_scale, has_found, on_device;
  int64_t measure, skip_nonfinite;
  double max_grad_norm, average_weight;
};

struct Shape {
  int64_t n, layer;
  int64_t offsets[6];  // of the first six arrays, in bytes from a multiple of 16
};

// As torch has it: nothing is nowhere.
template <typename T>
T* pointer_to(const Buffer& buffer) {
  return buffer.bytes() == 0 ? nullptr : buffer.as<T>();
}

bool is_at_multiple_of(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

struct Tensor {
  Shape shape;
  Buffer param, grad, exp_avg, exp_avg_sq, shadow, average, step, n_averaged;

  // Members are read in the order in which they are declared, that of the file.
  Tensor(const Header& h, std::ifstream& file)
      : shape(host::read<Shape>(file)),
        param(shape.n * 4, file, shape.offsets[0]),
        grad(shape.n * 4, file, shape.offsets[1]),
        exp_avg(shape.n * 4, file, shape.offsets[2]),
        exp_avg_sq(shape.n * 4, file, shape.offsets[3]),
        shadow(h.has_shadow * shape.n * 2, file, shape.offsets[4]),
        average(h.has_average * shape.n * 4, file, shape.offsets[5]),
        step(4, file),
        n_averaged(h.has_average * 4, file) {}

  // As bindings_adamw.h has it.
  AdamwTensor argument(int64_t first_tile) const {
    AdamwTensor t{};
    t.param = pointer_to<float>(param);
    t.grad = pointer_to<float>(grad);
    t.exp_avg = pointer_to<float>(exp_avg);
    t.exp_avg_sq = pointer_to<float>(exp_avg_sq);
    t.step = pointer_to<float>(step);
    t.shadow = pointer_to<void>(shadow);
    t.average = pointer_to<float>(average);
    t.n_averaged = pointer_to<float>(n_averaged);
    t.n = shape.n;
    t.first_tile = first_tile;
    t.layer = static_cast<int32_t>(shape.layer);
    t.aligned = is_at_multiple_of(t.param, 16) && is_at_multiple_of(t.grad, 16) &&
                is_at_multiple_of(t.exp_avg, 16) && is_at_multiple_of(t.exp_avg_sq, 16) &&
                is_at_multiple_of(t.average, 16) && is_at_multiple_of(t.shadow, 8);
    return t;
  }
};

std::string run(std::ifstream& file) {
  const auto h = host::read<Header>(file);
  const Buffer layers(h.n_layers * sizeof(AdamwLayer), file), grad_scale(4, file),
      found_inf(4, file), grad_norm(4, file), skipped_steps(8, file), ticket(4, file);
  std::vector<Tensor> tensors;
  std::vector<AdamwTensor> arguments;
  int64_t n_tiles = 0;
  for (int64_t i = 0; i < h.n_tensors; ++i) {
    tensors.emplace_back(h, file);
    arguments.push_back(tensors[i].argument(n_tiles));
    n_tiles += (tensors[i].shape.n + kAdamwTile - 1) / kAdamwTile;
  }
  const Buffer sums(h.measure != 0 ? (n_tiles + 1) * sizeof(double) : 0);
  host::untrack_all();
  if (sums.bytes() > 0) host::track(sums.as<void>(), sums.bytes());

  LayerwiseAdamw params{};
  params.step.grad_scale = h.has_scale != 0 ? grad_scale.as<float>() : nullptr;
  params.step.found_inf = h.has_found != 0 ? found_inf.as<float>() : nullptr;
  params.step.max_grad_norm = h.max_grad_norm;
  params.step.measure = h.measure != 0;
  params.step.skip_nonfinite = h.skip_nonfinite != 0;
  params.step.average_weight = h.average_weight;
  params.step.grad_norm = grad_norm.as<float>();
  params.step.skipped_steps = skipped_steps.as<int64_t>();
  params.tensors = arguments.data();
  params.n_tensors = h.n_tensors;
  (h.on_device != 0 ? params.device_layers : params.layers) = layers.as<AdamwLayer>();
  params.n_tiles = n_tiles;
  params.sums = pointer_to<double>(sums);
  params.ticket = ticket.as<uint32_t>();
  host::check(launch_layerwise_adamw(params, nullptr), "layerwise_adamw");

  std::string results;
  const auto add = [&results](const Buffer& b) {
    if (!b.is_intact()) host::stop("layerwise_adamw: wrote before the first element");
    results.append(b.as<char>(), b.bytes());
  };
  for (const Tensor& t : tensors) {
    for (const Buffer* b :
         {&t.param, &t.exp_avg, &t.exp_avg_sq, &t.shadow, &t.average, &t.step, &t.n_averaged}) {
      add(*b);
    }
  }
  for (const Buffer* b : {&grad_norm, &skipped_steps, &ticket}) add(*b);
  return results;
}

}  // namespace

int main(int n_arguments, char** arguments) {
  if (n_arguments < 6) {
    host::stop("usage: run_adamw CASE RESULT FIRST_SEED N_SEEDS MULTIPROCESSORS [MUTATION]");
  }
  if (n_arguments > 6) host::options().mutation = arguments[6];
  std::vector<int> multiprocessors;
  std::istringstream numbers(arguments[5]);
  for (std::string number; std::getline(numbers, number, ',');) {
    multiprocessors.push_back(std::stoi(number));
  }
  host::run_schedules(arguments, [&](std::ifstream& file) {
    host::Options& options = host::options();
    options.n_multiprocessors = multiprocessors[options.seed % multiprocessors.size()];
    return run(file);
  });
  return 0;
}
