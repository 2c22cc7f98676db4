// What the forward and the backward of the LSTM layer share: its arguments, checked and contiguous,
// scratch memory, panels of its weights, and how work is spread over threads.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "bindings_cpu.h"
#include "cpu/scratch.h"

namespace ulmfit_fast {

// Multiplications and additions below which a second thread costs more than it saves.
constexpr int64_t kGrainFlops = 4'000'000;
// Elements that a thread masks and moves at least.
constexpr int64_t kGrainElements = 65'536;

using Range = std::function<void(int64_t, int64_t)>;

inline size_t bytes_of(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void in_parallel(int64_t n, int64_t work_of_each, int64_t grain_work, const Range& run) {
  const int64_t grain = std::max<int64_t>(1, grain_work / std::max<int64_t>(1, work_of_each));
  fork_join(n, grain, run);
}

// Chunks small enough that every thread has a few tasks, and of whole tiles.
LstmGrid make_grid(int64_t n_panels, int64_t B, const LstmKernels& kernels);

// A layer's arguments, contiguous, and what follows from them.
struct Layer {
  Tensor x, w_ih, w_hh, h0, c0;
  std::optional<Tensor> lengths;
  std::optional<Tensor> seed;
  double drop_p;
  bool reverse;
  int64_t T, B, I, H;
  ScalarType storage, compute, element;
  const LstmKernels& kernels;
  mutable Scratch scratch;

  const int64_t* lengths_data() const {
    return lengths.has_value() ? lengths->const_data_ptr<int64_t>() : nullptr;
  }
  int64_t first_step() const { return reverse ? T - 1 : 0; }
  int64_t last_step() const { return reverse ? 0 : T - 1; }
  int64_t direction() const { return reverse ? -1 : 1; }
};

// n_states: rows of h0 and c0, where they are not those of x.
Layer check_layer(const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const Tensor& h0,
                  const Tensor& c0, const std::optional<Tensor>& lengths,
                  const std::optional<Tensor>& seed, double drop_p, bool reverse,
                  std::optional<int64_t> n_states = std::nullopt);

// Throws unless a tensor has these sizes, x's device, and x's dtype or the other one.
void check_sizes(const char* name, const Tensor& tensor, const Tensor& x,
                 std::vector<int64_t> sizes, std::optional<ScalarType> other = std::nullopt);

Tensor make(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype);
Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype);
Tensor copy_of(const Tensor& source, ScalarType dtype);

// A weight in the storage type: itself, or a rounded copy.
Tensor stored(const Layer& layer, const Tensor& weight);

// A matrix [rows, columns] in the scratch memory of a call, holding anything.
Tensor scratch_matrix(const Layer& layer, Scratch::Part part, int64_t rows, int64_t columns,
                      ScalarType dtype);

Mask mask_of(const Layer& layer);

// What packing reads of a matrix: all its rows, unmasked.
PackParams describe(const Tensor& matrix, const LstmKernels& kernels);

// Panels of a [4H, K] weight whose columns are the gates of a few units.
const void* pack_gates(const Layer& layer, Scratch::Part part, const Tensor& weight, Mask mask);

// Panels of the matrix [K, N] that params describes, K counting up as its operand wants.
const void* pack_rows(const Layer& layer, Scratch::Part part, PackParams params);

}  // namespace ulmfit_fast
