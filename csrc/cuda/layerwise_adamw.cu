// AdamW over all layers with their own rates: norm_kernel (clipping, non-finite check), update_kernel.
//
//   norm_kernel     norm = sqrt(sum of grad^2 over all tensors) / grad_scale
//   update_kernel   scale = min(1, max_grad_norm / (norm + 1e-6)) / grad_scale, then ../adamw.h
//
// Layout    tensors dense, each in its own order; their table and the layers' settings are arguments by
//           value (4 or 31 KB of constant memory), so nothing is uploaded or goes stale.
// Mapping   a tile is kAdamwTile elements of one tensor and belongs to a warp of norm_kernel; warps take
//           tiles w, w + n_warps, ... The update takes quarters of tiles, from the end: what the first
//           kernel read last is still in L2. A lane moves 16 bytes of every array at a time.
// Memory    reads 4 (norm) and 16, writes 12 B an element, + 2 B for the bfloat16 copy, + 8 B for the
//           average. Floor = 32 n / bandwidth, 28 n in one launch. In flight: 1024 threads x 64 B on a
//           multiprocessor. Shared: factors, 24 B a tensor; 8 warp sums. No bank matters.
// Numbers   squares and sums in float64, a tile's in a fixed tree, the tiles' in another: no result depends
//           on the grid or on who comes first. Factors in float64, arithmetic in float32, IEEE root
//           and quotient. Steps are counted by the last block, when all blocks have read them.
// Requires  nothing: tensors that are not 16-byte aligned, and ends, go element by element.
#include <algorithm>
#include <cmath>

#include "../adamw.h"
#include "device.cuh"

namespace ulmfit_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 4;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kVector = kAccessBytes / sizeof(float);
constexpr int kLineOfWarp = kWarpThreads * kVector;
constexpr int kLines = kAdamwTile / kLineOfWarp;
static_assert(kAdamwTile % kLineOfWarp == 0, "a warp takes whole lines of a tile");
// Loads of a lane that norm_kernel has under way: 128 KB on a multiprocessor of 1024 threads.
constexpr int kLinesAtOnce = 8;
// What a warp of the update takes at a time is a part of a tile: the last turn then leaves fewer idle.
constexpr int kPieces = 4;
constexpr int kPiece = kAdamwTile / kPieces;
static_assert(kLines % kPieces == 0, "a piece has whole lines");
// Tensors of the small table, 4 KB: AWD-LSTM has 14 to 21, and arguments cost time to hand over.
constexpr int kFewTensors = 31;
static_assert(kAdamwMostTensors <= kThreads, "a thread forms the factors of a tensor");

using Floats = Pack<float, kVector>;

template <int kTensors>
struct Table {
  AdamwStep step;
  const AdamwLayer* device_layers;
  double* sums;  // one of every tile of every launch, then their sum
  uint32_t* ticket;
  int64_t n_tiles;      // of this launch
  int64_t before;       // of the launches before it
  int64_t n_all_tiles;  // of all launches
  int32_t n_tensors;
  bool is_first, is_last;
  AdamwTensor tensors[kTensors];
  AdamwLayer layers[kTensors];  // layers[i]: of tensors[i]
};
static_assert(sizeof(Table<kAdamwMostTensors>) <= 32'764, "kernel arguments since CUDA 12.1");

DEVICE double warp_sum(double value) {
#pragma unroll
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) value += warp_exchange(value, mask);
  return value;
}

template <int kTensors>
DEVICE int tensor_of(const Table<kTensors>& table, int64_t tile) {
  int first = 0, last = table.n_tensors - 1;
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    if (table.tensors[middle].first_tile <= tile) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

// Whether what is read or written is used again soon; if not, it is the first to leave the caches.
enum class Use { kAgain, kOnce };

// Four elements, n of which are left. kWhole: all four, 16-byte aligned.
template <bool kWhole, Use kUse>
DEVICE Floats load_floats(const float* from, int64_t n) {
  Floats floats;
  if constexpr (!kWhole) {
#pragma unroll
    for (int k = 0; k < kVector; ++k) floats.element[k] = k < n ? from[k] : 0.0f;
  } else if constexpr (kUse == Use::kOnce) {
    floats = load_streaming(reinterpret_cast<const Floats*>(from));
  } else {
    floats = *reinterpret_cast<const Floats*>(from);
  }
  return floats;
}

template <typename T>
DEVICE void store_each(T* to, const T (&elements)[kVector], int64_t n) {
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    if (k < n) to[k] = elements[k];
  }
}

template <bool kWhole, Use kUse>
DEVICE void store_floats(float* to, const Floats& floats, int64_t n) {
  if constexpr (!kWhole) {
    store_each(to, floats.element, n);
  } else if constexpr (kUse == Use::kOnce) {
    store_streaming(reinterpret_cast<Floats*>(to), floats);
  } else {
    *reinterpret_cast<Floats*>(to) = floats;
  }
}

template <bool kWhole>
DEVICE void store_shadow(bfloat16* to, const Floats& floats, int64_t n) {
  struct alignas(8) Halves {
    bfloat16 element[kVector];
  } halves;
#pragma unroll
  for (int k = 0; k < kVector; ++k) halves.element[k] = narrow<bfloat16>(floats.element[k]);
  if constexpr (kWhole) {
    *reinterpret_cast<Halves*>(to) = halves;
  } else {
    store_each(to, halves.element, n);
  }
}

// Whether this block is the last of the launch to come here; all its threads ask. The ticket is 0
// again for whoever comes next.
DEVICE bool is_last_block(uint32_t* ticket, uint32_t* shared_flag) {
  block_sync();
  if (thread_index() == 0) {
    const bool last = add_acquire_release(ticket, 1) + 1 == static_cast<uint32_t>(grid_size());
    if (last) store_release(ticket, 0);
    *shared_flag = last ? 1 : 0;
  }
  block_sync();
  return *shared_flag != 0;
}

DEVICE int global_warp() { return block_index() * kWarps + thread_index() / kWarpThreads; }

// Whether so many elements are all there, and their memory is aligned.
DEVICE bool is_whole(const AdamwTensor& tensor, int64_t first, int count) {
  return tensor.aligned && first + count <= tensor.n;
}

template <bool kWhole>
DEVICE double squares_of_lane(const AdamwTensor& tensor, int64_t i) {
  double sum = 0;
#pragma unroll(kWhole ? kLinesAtOnce : 1)
  for (int line = 0; line < kLines; ++line, i += kLineOfWarp) {
    const Floats grad = load_floats<kWhole, Use::kAgain>(tensor.grad + i, tensor.n - i);
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const double g = static_cast<double>(grad.element[k]);
      sum += g * g;
    }
  }
  return sum;
}

struct NormShared {
  double sums[kWarps];
  uint32_t last;
};

template <int kTensors>
KERNEL(kThreads, kBlocksPerSm)
norm_kernel(const __grid_constant__ Table<kTensors> table) {
  NormShared& shared = *reinterpret_cast<NormShared*>(shared_memory());
  const int lane = thread_index() % kWarpThreads;
  const int64_t n_warps = int64_t{grid_size()} * kWarps;
  for (int64_t tile = global_warp(); tile < table.n_tiles; tile += n_warps) {
    const AdamwTensor& tensor = table.tensors[tensor_of(table, tile)];
    const int64_t first = (tile - tensor.first_tile) * kAdamwTile;
    double sum = is_whole(tensor, first, kAdamwTile)
                     ? squares_of_lane<true>(tensor, first + lane * kVector)
                     : squares_of_lane<false>(tensor, first + lane * kVector);
    sum = warp_sum(sum);
    if (lane == 0) store_for_others(table.sums + table.before + tile, sum);
  }
  if (!is_last_block(table.ticket, &shared.last) || !table.is_last) return;
  double sum = 0;
  for (int64_t i = thread_index(); i < table.n_all_tiles; i += kThreads) {
    sum += load_from_others(table.sums + i);
  }
  sum = warp_sum(sum);
  if (lane == 0) shared.sums[thread_index() / kWarpThreads] = sum;
  block_sync();
  if (thread_index() != 0) return;
  sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[warp];
  const AdamwStep& step = table.step;
  const double inverse = step.grad_scale == nullptr ? 1.0 : 1.0 / double{*step.grad_scale};
  table.sums[table.n_all_tiles] = sum;
  *step.grad_norm = static_cast<float>(std::sqrt(sum) * inverse);
}

struct UpdateShared {
  float scale;
  uint32_t skip, last;
  AdamwFactors factors[];  // of every tensor
};

template <int kTensors>
DEVICE void form_factors(const Table<kTensors>& table, UpdateShared& shared) {
  const AdamwStep& step = table.step;
  const int i = thread_index();
  if (i < table.n_tensors) {
    const AdamwTensor& tensor = table.tensors[i];
    const AdamwLayer layer =
        table.device_layers == nullptr ? table.layers[i] : table.device_layers[tensor.layer];
    const double n_averaged = tensor.average == nullptr ? 0.0 : double{*tensor.n_averaged};
    shared.factors[i] =
        adamw_factors(layer, double{*tensor.step} + 1.0, n_averaged, step.average_weight);
  }
  if (i == 0) {
    const double inverse = step.grad_scale == nullptr ? 1.0 : 1.0 / double{*step.grad_scale};
    shared.scale = static_cast<float>(inverse);
    bool skip = step.found_inf != nullptr && *step.found_inf != 0.0f;
    if (step.measure) {
      const double norm = std::sqrt(table.sums[table.n_all_tiles]) * inverse;
      shared.scale = adamw_scale(step.max_grad_norm, norm, inverse);
      skip = skip || (step.skip_nonfinite && !std::isfinite(norm));
    }
    shared.skip = skip ? 1 : 0;
  }
  block_sync();
}

template <bool kShadow, bool kAverage, bool kWhole>
DEVICE void update_line(const AdamwTensor& tensor, const AdamwFactors& factors, float scale,
                        int64_t i) {
  const int64_t n = tensor.n - i;
  const auto root = [](float x) { return std::sqrt(x); };
  const Floats grad = load_floats<kWhole, Use::kOnce>(tensor.grad + i, n);
  Floats p = load_floats<kWhole, Use::kAgain>(tensor.param + i, n);
  Floats m = load_floats<kWhole, Use::kOnce>(tensor.exp_avg + i, n);
  Floats v = load_floats<kWhole, Use::kOnce>(tensor.exp_avg_sq + i, n);
  Floats a;
  if constexpr (kAverage) a = load_floats<kWhole, Use::kOnce>(tensor.average + i, n);
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    adamw_update(p.element[k], grad.element[k], m.element[k], v.element[k], scale, factors, root);
    if constexpr (kAverage) {
      const float old = a.element[k], now = p.element[k];
      a.element[k] = factors.average == 1.0f ? now : old + factors.average * (now - old);
    }
  }
  store_floats<kWhole, Use::kAgain>(tensor.param + i, p, n);
  store_floats<kWhole, Use::kOnce>(tensor.exp_avg + i, m, n);
  store_floats<kWhole, Use::kOnce>(tensor.exp_avg_sq + i, v, n);
  if constexpr (kShadow) store_shadow<kWhole>(static_cast<bfloat16*>(tensor.shadow) + i, p, n);
  if constexpr (kAverage) store_floats<kWhole, Use::kOnce>(tensor.average + i, a, n);
}

template <bool kShadow, bool kAverage, bool kWhole>
DEVICE void update_piece(const AdamwTensor& tensor, const AdamwFactors& factors, float scale,
                         int64_t i) {
#pragma unroll 1
  for (int line = 0; line < kLines / kPieces; ++line, i += kLineOfWarp) {
    update_line<kShadow, kAverage, kWhole>(tensor, factors, scale, i);
  }
}

template <int kTensors, bool kShadow, bool kAverage>
KERNEL(kThreads, kBlocksPerSm)
update_kernel(const __grid_constant__ Table<kTensors> table) {
  UpdateShared& shared = *reinterpret_cast<UpdateShared*>(shared_memory());
  form_factors(table, shared);
  const bool skip = shared.skip != 0;
  const float scale = shared.scale;
  const int lane = thread_index() % kWarpThreads;
  const int64_t n_warps = int64_t{grid_size()} * kWarps;
  const int64_t n_pieces = table.n_tiles * kPieces;
  for (int64_t turn = global_warp(); turn < n_pieces && !skip; turn += n_warps) {
    const int64_t piece = n_pieces - 1 - turn;
    const int index = tensor_of(table, piece / kPieces);
    const AdamwTensor& tensor = table.tensors[index];
    const AdamwFactors factors = shared.factors[index];
    const int64_t first = (piece - tensor.first_tile * kPieces) * kPiece;
    const int64_t i = first + lane * kVector;
    if (is_whole(tensor, first, kPiece)) {
      update_piece<kShadow, kAverage, true>(tensor, factors, scale, i);
    } else {
      update_piece<kShadow, kAverage, false>(tensor, factors, scale, i);
    }
  }
  if (!is_last_block(table.ticket, &shared.last)) return;
  const int i = thread_index();
  if (skip) {
    if (i == 0 && table.is_first) *table.step.skipped_steps += 1;
  } else if (i < table.n_tensors) {
    *table.tensors[i].step += 1.0f;
    if constexpr (kAverage) *table.tensors[i].n_averaged += 1.0f;
  }
}

// The part of a step that begins at a tensor: as many as the table holds.
template <int kTensors>
Table<kTensors> table_of(const LayerwiseAdamw& params, int64_t first) {
  Table<kTensors> table{};
  table.step = params.step;
  table.device_layers = params.device_layers;
  table.sums = params.sums;
  table.ticket = params.ticket;
  const int64_t end = std::min<int64_t>(first + kTensors, params.n_tensors);
  table.before = params.tensors[first].first_tile;
  const int64_t after = end < params.n_tensors ? params.tensors[end].first_tile : params.n_tiles;
  table.n_tiles = after - table.before;
  table.n_all_tiles = params.n_tiles;
  table.n_tensors = static_cast<int32_t>(end - first);
  table.is_first = first == 0;
  table.is_last = end == params.n_tensors;
  for (int64_t i = first; i < end; ++i) {
    AdamwTensor& tensor = table.tensors[i - first];
    tensor = params.tensors[i];
    tensor.first_tile -= table.before;
    if (params.layers != nullptr) table.layers[i - first] = params.layers[tensor.layer];
  }
  return table;
}

template <int kTensors>
cudaError_t launch_all(const LayerwiseAdamw& params, cudaStream_t stream) {
  // A tensor without elements has no pointers but to its numbers.
  const bool average = params.tensors[0].n_averaged != nullptr;
  const bool shadow =
      std::any_of(params.tensors, params.tensors + params.n_tensors,
                  [](const AdamwTensor& tensor) { return tensor.shadow != nullptr; });
  const auto update =
      shadow
          ? (average ? update_kernel<kTensors, true, true> : update_kernel<kTensors, true, false>)
          : (average ? update_kernel<kTensors, false, true>
                     : update_kernel<kTensors, false, false>);
  const size_t update_bytes = sizeof(UpdateShared) + kTensors * sizeof(AdamwFactors);
  for (const bool is_norm : {true, false}) {
    if (is_norm && !params.step.measure) continue;
    for (int64_t first = 0; first < params.n_tensors; first += kTensors) {
      const Table<kTensors> table = table_of<kTensors>(params, first);
      Launch shape{1, kThreads, is_norm ? sizeof(NormShared) : update_bytes, stream, false};
      const int64_t n_warps = std::max<int64_t>(table.n_tiles, 1) * (is_norm ? 1 : kPieces);
      const int64_t threads = n_warps * kWarpThreads;
      cudaError_t error = grid_stride_blocks(threads, kThreads, kBlocksPerSm, &shape.blocks);
      if (error != cudaSuccess) return error;
      error = launch(is_norm ? norm_kernel<kTensors> : update, shape, table);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_layerwise_adamw(const LayerwiseAdamw& params, cudaStream_t stream) {
  const bool few = params.n_tensors <= kFewTensors;
  return few ? launch_all<kFewTensors>(params, stream)
             : launch_all<kAdamwMostTensors>(params, stream);
}

}  // namespace ulmfit_fast
