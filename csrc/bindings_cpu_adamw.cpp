// Private op ulmfit_fast_cpu::layerwise_adamw_: the optimizer's step in two passes over all tensors,
// one where nothing needs the norm.
//
// Work is cut into tiles of a tensor. The squares of a tile have a sum of their own, added up in the
// order of the tiles: the result does not depend on the threads. The second pass takes a thread's
// tiles in reverse, as it read the last of them last.
#include <cmath>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "adamw.h"
#include "bindings_adamw.h"
#include "bindings_cpu.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kTile = 16'384;
// Tiles below which a second thread costs more than it saves.
constexpr int64_t kGrainTiles = 4;

struct Tile {
  size_t tensor;
  int64_t first, last;  // elements
};

std::vector<Tile> cut(const std::vector<AdamwTensor>& tensors) {
  std::vector<Tile> tiles;
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (int64_t first = 0; first < tensors[i].n; first += kTile) {
      tiles.push_back({i, first, std::min(first + kTile, tensors[i].n)});
    }
  }
  return tiles;
}

// The sum of the squares of all gradients.
double measure(const std::vector<AdamwTensor>& tensors, const std::vector<Tile>& tiles,
               const AdamwKernels& kernels) {
  std::vector<double> sums(tiles.size());
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Tile& tile = tiles[i];
      sums[i] = kernels.sum_of_squares(tensors[tile.tensor], tile.first, tile.last);
    }
  };
  fork_join(static_cast<int64_t>(tiles.size()), kGrainTiles, run);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

void update(const std::vector<AdamwTensor>& tensors, const std::vector<Tile>& tiles,
            const AdamwLayer* layers, double average_weight, float scale,
            const AdamwKernels& kernels) {
  std::vector<AdamwFactors> factors(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const AdamwTensor& tensor = tensors[i];
    const double n_averaged = tensor.n_averaged == nullptr ? 0.0 : double{*tensor.n_averaged};
    const double t = double{*tensor.step} + 1.0;
    factors[i] = adamw_factors(layers[tensor.layer], t, n_averaged, average_weight);
  }
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t i = last - 1; i >= first; --i) {
      const Tile& tile = tiles[i];
      kernels.update(tensors[tile.tensor], factors[tile.tensor], scale, tile.first, tile.last);
    }
  };
  fork_join(static_cast<int64_t>(tiles.size()), kGrainTiles, run);
}

void layerwise_adamw_(const Tensors& params, const Tensors& grads, const Tensors& exp_avgs,
                      const Tensors& exp_avg_sqs, const Tensors& steps, const Tensors& shadows,
                      const Tensors& averages, const Tensors& n_averaged, const Tensor& grad_norm,
                      const Tensor& skipped_steps, const Tensor& /*ticket*/, const Tensor& layers,
                      const std::vector<int64_t>& layer_of, const std::optional<Tensor>& grad_scale,
                      const std::optional<Tensor>& found_inf, std::optional<double> max_grad_norm,
                      bool skip_nonfinite, double average_weight) {
  const AdamwArguments arguments{
      params,     grads,      exp_avgs,      exp_avg_sqs,    steps,         shadows,
      averages,   n_averaged, grad_norm,     skipped_steps,  layers,        layer_of,
      grad_scale, found_inf,  max_grad_norm, skip_nonfinite, average_weight};
  const AdamwStep step = check_step(arguments);
  STD_TORCH_CHECK(layers.is_cpu(), "layers: expected on the CPU");
  const std::vector<AdamwTensor> tensors = check_tensors(arguments, kTile);
  const AdamwKernels& kernels = adamw_kernels_cpu();
  const std::vector<Tile> tiles = cut(tensors);
  const double inverse = step.grad_scale == nullptr ? 1.0 : 1.0 / double{*step.grad_scale};
  float scale = static_cast<float>(inverse);
  bool skip = step.found_inf != nullptr && *step.found_inf != 0.0f;
  if (step.measure) {
    const double norm = std::sqrt(measure(tensors, tiles, kernels)) * inverse;
    *step.grad_norm = static_cast<float>(norm);
    scale = adamw_scale(step.max_grad_norm, norm, inverse);
    skip = skip || (step.skip_nonfinite && !std::isfinite(norm));
  }
  if (skip) {
    ++*step.skipped_steps;
    return;
  }
  const auto* layer = reinterpret_cast<const AdamwLayer*>(layers.const_data_ptr<double>());
  update(tensors, tiles, layer, step.average_weight, scale, kernels);
  for (const AdamwTensor& tensor : tensors) {
    *tensor.step += 1.0f;
    if (tensor.n_averaged != nullptr) *tensor.n_averaged += 1.0f;
  }
}

}  // namespace

// A step over moments of 44 M parameters then takes 6 % less (Xeon with AMX, 2 threads, 2026-11-25).
void advise_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + tensor.numel() * tensor.element_size()) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace ulmfit_fast

STABLE_TORCH_LIBRARY_FRAGMENT(ulmfit_fast_cpu, m) {
  m.def(ulmfit_fast::kLayerwiseAdamwSchema);
  m.def("advise_huge_pages(Tensor(a!) tensor) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast_cpu, CPU, m) {
  m.impl("layerwise_adamw_", TORCH_BOX(&ulmfit_fast::layerwise_adamw_));
  m.impl("advise_huge_pages", TORCH_BOX(&ulmfit_fast::advise_huge_pages));
}
