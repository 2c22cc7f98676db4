// The C++ contract: parameters and entry points of every kernel. No torch header here.
//
// Pointers are to contiguous, row-major memory. Nothing here allocates, checks or synchronises:
// bindings_cpu.cpp and bindings_cuda.cpp do, before they call.
#pragma once

#include <cstdint>

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace ulmfit_fast {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// out[i] = keep(i) ? weight[i] * scale : +0, for i in [0, n); keep as in philox.h.
struct DropConnectParams {
  const void* weight;   // [n]
  void* out;            // [n], never overlaps weight
  const int64_t* seed;  // [1], in the memory of the device that runs the kernel
  int64_t n;
  uint32_t threshold;  // drop_threshold(drop_p)
  double scale;        // 1 / (1 - drop_p); rounded to float32 unless dtype is kFloat64
  DType dtype;         // of weight and out
};

// Computes elements 4 * first_block up to min(4 * last_block, n); any number of threads may call it
// on ranges that do not overlap.
void drop_connect_cpu(const DropConnectParams& params, int64_t first_block, int64_t last_block);

// Which elements of a matrix stay, and what they are multiplied by; keep as in philox.h.
struct Mask {
  bool drop;  // else everything stays as it is
  uint64_t seed;
  uint32_t threshold;  // drop_threshold(drop_p)
  double scale;        // 1 / (1 - drop_p)
};

// A matrix, masked or not, and where its panels go; layouts in cpu/pack.h.
struct PackParams {
  const void* source;  // [n_rows, n_cols], rows side by side
  const void* rest;    // rows from n_first on; without a second part n_first = n_rows
  int64_t n_first;
  int64_t n_rows, n_cols;
  int64_t element_size;  // bytes of an element of source
  bool wide;             // source is of type C, and rounded to S on the way
  void* panels;
  int64_t depth;  // K counts up to a multiple of it
  Mask mask;

  const void* row(int64_t r) const {
    const bool first = r < n_first;
    return static_cast<const char*>(first ? source : rest) +
           (first ? r : r - n_first) * n_cols * element_size;
  }
  int64_t padded(int64_t K) const { return (K + depth - 1) / depth * depth; }
};

// The tasks of a time step: every panel of the weight times every chunk of rows.
struct LstmGrid {
  int64_t n_panels, n_chunks, chunk_rows;
  int64_t n_tasks() const { return n_panels * n_chunks; }
};

// A time step. Backward, t is the step whose da is made, before the one whose da is multiplied.
struct LstmStep {
  int64_t t;       // -1: no step is left, dh is the gradient of h0
  int64_t slot;    // forward: place of t in gates
  int64_t before;  // backward
  int64_t start;   // backward: the step that ran first
  int64_t back;    // backward: -1, or +1 if the sequence ran in reverse
  int parity;      // which of two buffers is read; the other is written
  // Backward: dh [B, H] of the storage type, where it is no product; or nullptr.
  const void* product;
};

// S: the storage type. C: float, or double beside it. E: C, or bfloat16 where pairs are multiplied.
struct LstmForwardParams {
  int64_t B, H, K;  // K: columns of h, H filled up to a multiple of LstmKernels::depth
  int64_t pitch;    // rows of a step in gates, y and cells: B, or those of all chunks side by side
  LstmGrid grid;
  const void* panels;  // E, of pack_gates, or nullptr:
  const void* rows;    // S [4H, H], W_hh as it lies
  void* h[2];          // E [B, K] each, B filled up to a multiple of n_read_rows
  void* c;             // C [B, H]
  void* gates;         // S [slots, pitch, 4H]: in x W_ih^T + bias, out the activated gates if save
  void* y;             // S [T, pitch, H]
  void* cells;         // C [T, pitch, H] if save
  const int64_t* lengths;  // [B] or nullptr
  bool save;
};

struct LstmBackwardParams {
  int64_t B, H;
  LstmGrid grid;
  const void* panels;  // E, of pack_rows
  const void* dy;      // S [T, B, H]
  const void* gates;   // S [T, B, 4H]
  const void* cells;   // C [T, B, H]
  const void* c0;      // C [B, H]
  void* dgates;        // S [T, B, 4H]
  void* da[2];         // E [B, 4H] each, where E is not S
  void* dc;            // C [B, H]: in dc_n, out dc0
  void* carry;         // C [B, H], zeros, with lengths; else nullptr
  void* dh0;           // S [B, H]
  const int64_t* lengths;
};

struct ProductParams {
  int64_t M, N, K;
  const void* a;  // [M, K]
  const void* panels;
  const void* bias;  // [N] or nullptr
  void* out;         // [M, N]
};

struct TransposedProductParams {
  int64_t M, K;
  int64_t N[2];
  const void* a;          // [K, M]
  const void* panels[2];  // [K, N]
  void* out[2];           // [M, N]
  Mask mask[2];           // of out
  void* column_sums;      // [M]: the sum of each column of a
  bool wide;              // out and column_sums are of type C
};

// What an instruction set does for one pair of storage type and operand. Every function works on a
// range of panels, rows, tasks or chunks; any number of threads may share them out.
struct LstmKernels {
  int64_t n_units;                    // units of a panel of pack_gates
  int64_t n_columns;                  // columns of a panel of pack_rows
  int64_t n_tile_rows, n_chunk_rows;  // rows of a tile; most rows of a chunk
  int64_t depth;                      // a product's K is a multiple of it
  int64_t n_read_rows;                // a product's rows are read up to a multiple of it
  bool pairs;
  void (*pack_gates)(const PackParams&, int64_t first, int64_t last);
  void (*pack_rows)(const PackParams&, int64_t first, int64_t last);  // pairs of rows if pairs
  void (*forward)(const LstmForwardParams&, const LstmStep&, int64_t first, int64_t last);
  void (*backward)(const LstmBackwardParams&, const LstmStep&, int64_t first, int64_t last);
  // nullptr where torch's product is to be used.
  void (*gates_product)(const ProductParams&, int64_t first, int64_t last);
  void (*rows_product)(const ProductParams&, int64_t first, int64_t last);
  void (*transposed_product)(const TransposedProductParams&, int64_t first, int64_t last);
};

// The kernels of a storage type and H units on this machine's processor.
const LstmKernels& lstm_kernels_cpu(DType dtype, int64_t H);

// One layer's settings, float64 up to the factors below; five numbers side by side, as in the op's
// argument layers.
struct AdamwLayer {
  double lr, weight_decay, beta1, beta2, eps;
};

// One unfrozen tensor. All memory is dense, in the same order.
struct AdamwTensor {
  float* param;       // [n]
  const float* grad;  // [n]
  float* exp_avg;     // [n]
  float* exp_avg_sq;  // [n]
  float* step;        // [1]: steps taken
  void* shadow;       // bfloat16 [n] or nullptr
  float* average;     // [n] or nullptr
  float* n_averaged;  // [1] where average is
  int64_t n;
  int64_t first_tile;  // tiles of the tensors before this one
  int32_t layer;
  bool aligned;  // every [n] begins at a multiple of 16 bytes, shadow of 8
};

// What a step has once. Pointers to single numbers are to the memory of the device.
struct AdamwStep {
  const float* grad_scale;  // the gradients are this many times too large; nullptr: 1
  const float* found_inf;   // not 0: nothing changes; nullptr: 0
  double max_grad_norm;     // infinite: no clipping
  bool measure;             // write grad_norm: for clipping, or to skip what is not finite
  bool skip_nonfinite;
  double average_weight;   // of the newest parameters in the average; 0: their mean
  float* grad_norm;        // of the unscaled gradients
  int64_t* skipped_steps;  // + 1 where nothing changes
};

// One layer's factors of a step, formed in float64 and rounded once.
struct AdamwFactors {
  float weight1, weight2;  // of the gradient and its square in the moments: 1 - beta
  float step_size;         // lr sqrt(1 - beta2^t) / (1 - beta1^t)
  float eps;               // eps sqrt(1 - beta2^t)
  float decay;             // lr weight_decay
  float average;           // of the parameter in the average; 1 replaces it
};

// What an instruction set does for AdamW, on elements first .. last - 1 of a tensor.
struct AdamwKernels {
  double (*sum_of_squares)(const AdamwTensor&, int64_t first, int64_t last);
  void (*update)(const AdamwTensor&, const AdamwFactors&, float scale, int64_t first, int64_t last);
};

const AdamwKernels& adamw_kernels_cpu();

// Rows of the vocabulary that the CPU's loss takes at a time.
constexpr int64_t kLossRows = 192;

// A chunk of N tokens of the CPU's loss. C: the type of sums; E: the operands' element type. A panel
// is n_columns tokens or features; width is n_panels n_columns, N filled up with zeros.
struct LossParams {
  int64_t N, E, V;
  int64_t K;               // E, filled up to a multiple of LossKernels::depth
  int64_t n_panels;        // of tokens
  int64_t n_slices;        // of the vocabulary; each is a thread's
  const void* hidden;      // S [N, E]
  const void* weight;      // S, or C if wide_weight, [V, E]
  const void* bias;        // C [V] or nullptr
  const int64_t* targets;  // [N]
  bool wide_weight;
  void* hidden_columns;  // E: panels of tokens [n_panels, K, n_columns]
  void* hidden_rows;  // E: panels of features [ceil(E / n_columns), width, n_columns], or nullptr
  void* weight_copy;  // E [blocks kLossRows, K], or nullptr: weight is of type E and K is E
  void* weight_columns;  // E [blocks, K, kLossRows] where operands are pairs and dh is wanted
  void* logits;          // C [blocks, n_panels, kLossRows, n_columns], or nullptr: made twice
  void *largest, *sums, *totals;  // C [n_slices, width]; totals or nullptr
  void* wanted;                   // C [width]: the target's logit
  void *lse, *grad;               // C [width]: of the row's loss; beyond N infinite, and 0
  void* dz;                       // E [n_slices, kLossRows, width]
  void* dh;                       // C [n_slices, n_panels, K, n_columns]
  void* d_hidden;                 // S [N, E]
  void *dw, *db;                  // C [V, E] and [V]; db or nullptr
  double label_smoothing;
  bool is_first;  // chunk: dw and db hold nothing yet
  bool need_dh, need_dw;

  int64_t n_blocks() const { return (V + kLossRows - 1) / kLossRows; }
  int64_t first_block(int64_t slice) const { return n_blocks() * slice / n_slices; }
};

// What an instruction set does for the loss, for one storage type of hidden.
struct LossKernels {
  int64_t n_columns, depth;
  bool copies_weight, pairs;
  bool keeps_logits;  // rather than make them again for the gradient: products are slow
  void (*pack_hidden)(const LossParams&, int64_t first_panel, int64_t last_panel);
  void (*pack_weight)(const LossParams&, int64_t first_block, int64_t last_block);
  void (*statistics)(const LossParams&, int64_t slice);
  void (*gradients)(const LossParams&, int64_t slice);
  void (*write_dh)(const LossParams&, int64_t first_panel, int64_t last_panel);
};

const LossKernels& loss_kernels_cpu(DType dtype);

// A sequence x [T, N], N = B E the numbers of a step. S: the storage type. A task is kTaskSteps steps
// of kTaskColumns columns.
constexpr int64_t kTaskSteps = 64;
constexpr int64_t kTaskColumns = 1024;

struct SequenceParams {
  int64_t T, N;
  const void* x;          // S [T, N]
  const void* d_dropped;  // S [T, N]; nullptr in the forward pass, and where nothing is dropped
  void* out;              // S [T, N]: dropped, nullptr where nothing is; or dx
  Mask mask;              // of a step, the same at every one
  double* sums;  // [n_tasks, 2]: of the squares of dropped, and of x[t] - x[t - 1]; or nullptr
  double activation, jump;  // backward: their factors in dx

  int64_t n_blocks() const { return (N + kTaskColumns - 1) / kTaskColumns; }
  int64_t n_tasks() const { return (T + kTaskSteps - 1) / kTaskSteps * n_blocks(); }
};

// Pooling over rows of any length; a task is kPoolColumns columns of a row.
constexpr int64_t kPoolColumns = 512;

struct PoolParams {
  int64_t B, T, E;
  const int64_t *start, *end;  // [B]: the valid positions, 0 <= start < end <= T
  const void* output;          // S: number (b, t, e) is at b row_stride + t step_stride + e
  int64_t row_stride, step_stride;
  void* pooled;          // S [B, 3E]
  int64_t* argmax;       // [B, E]
  const void* grad;      // S [B, 3E]
  const int64_t* place;  // [B, E]: argmax, in the backward pass
  void* d_output;        // S [B, T, E]

  int64_t n_blocks() const { return (E + kPoolColumns - 1) / kPoolColumns; }
  int64_t n_tasks() const { return B * n_blocks(); }
};

struct EmbeddingParams {
  int64_t N, E, V;
  const int64_t* ids;  // [N], each in 0 .. V - 1
  const void* rows;    // S: of the table, or of the gradient [N, E]
  int64_t row_stride;  // elements from a row of rows to the next
  void* out;           // S [N, E], or [V, E]
  Mask mask;           // of words
  // Backward: a word's first token [V] and the next token of the same word [N], -1 where none is.
  const int64_t *first, *next;
};

// What an instruction set does for dropouts, AR, TAR and pooling, for one storage type. Ranges are of
// tasks, and of tokens or rows of the table; any number of threads may share them out.
struct LayerKernels {
  void (*sequence)(const SequenceParams&, int64_t first, int64_t last);
  void (*sequence_backward)(const SequenceParams&, int64_t first, int64_t last);
  void (*pool)(const PoolParams&, int64_t first, int64_t last);
  void (*pool_backward)(const PoolParams&, int64_t first, int64_t last);
  void (*embed)(const EmbeddingParams&, int64_t first, int64_t last);
  // Every n-th row of the table, as frequent words are neighbours.
  void (*embed_backward)(const EmbeddingParams&, int64_t first, int64_t n);
};

const LayerKernels& layer_kernels_cpu(DType dtype);

// Tests and benchmarks: take the kernels of the n-th instruction set that this processor knows, 0
// the best; returns how many it knows. Not to be called while kernels run.
int64_t use_instruction_set(int64_t n);

// What the persistent kernels of a whole sequence share. S: bfloat16 or float16. Blocks come in
// n_groups groups, each with an equal part of the batch rows (the last may have fewer) and all units.
struct LstmSequence {
  int32_t T, B, H;     // H even
  int32_t n_groups;    // ceil(B / ceil(B / n_groups)): none is empty
  int32_t first_step;  // forward: time of the first of the T steps, for lengths
  bool reverse;
  const void* w_hh;        // S [4H, H], 16-byte aligned
  const int64_t* seed;     // [1], on the device; nullptr: nothing is dropped
  uint32_t threshold;      // drop_threshold(drop_p)
  float scale;             // 1 / (1 - drop_p)
  const int64_t* lengths;  // [B] or nullptr
  void* exchange;          // lstm_exchange_bytes(), anything
  uint32_t* flags;         // lstm_flag_bytes(), anything
  DType dtype;
};

struct LstmSequenceForward : LstmSequence {
  void* h;      // S [B, H]: in h0, out h_n
  float* c;     // [B, H]: in c0, out c_n
  void* gates;  // S [T, B, 4H]: in x W_ih^T + bias, out the activated gates if cells; an element is
                // written by the thread that read it before
  void* y;      // S [T, B, H]
  float* cells;  // [T, B, H] or nullptr
};

struct LstmSequenceBackward : LstmSequence {
  const void* dy;      // S [T, B, H]
  const void* gates;   // S [T, B, 4H], activated
  const float* cells;  // [T, B, H]
  const float* c0;     // [B, H]
  void* dgates;        // S [T, B, 4H]
  float* dh;           // [B, H]: in dh_n, out dh0
  float* dc;           // [B, H]: in dc_n, out dc0
  float* dbias;        // [n_groups, 4H]: the sum over a group's rows
};

// Units of a block of the persistent kernels, and the largest H that they know.
constexpr int kLstmForwardUnits = 18;
constexpr int kLstmBackwardUnits = 32;
constexpr int kLstmMaxUnits = 1152;
// Batch rows of a group that the forward kernel knows.
constexpr int kLstmMaxRows = 128;

#ifdef USE_CUDA
cudaError_t launch_drop_connect(const DropConnectParams& params, cudaStream_t stream);

cudaError_t launch_lstm_forward(const LstmSequenceForward& params, cudaStream_t stream);
cudaError_t launch_lstm_backward(const LstmSequenceBackward& params, cudaStream_t stream);

// How many blocks the current device runs at once, for any number of rows; a group takes
// ceil(H / units) of them.
cudaError_t lstm_forward_blocks(int64_t H, DType dtype, int* blocks);
cudaError_t lstm_backward_blocks(int64_t H, DType dtype, int* blocks);

size_t lstm_forward_exchange_bytes(int64_t B, int64_t H, int64_t n_groups);
size_t lstm_backward_exchange_bytes(int64_t B, int64_t H, int64_t n_groups);
size_t lstm_flag_bytes(int64_t n_blocks);

// Elements of a tile: what a warp takes at a time, and the sum of whose squares has a place.
constexpr int kAdamwTile = 2048;

// A whole step. AdamwTensor::layer is an index into layers, on the host, or, where that is nullptr,
// into device_layers.
struct LayerwiseAdamw {
  AdamwStep step;
  const AdamwTensor* tensors;  // on the host; first_tile counts tiles of kAdamwTile
  int64_t n_tensors;
  const AdamwLayer* layers;
  const AdamwLayer* device_layers;
  int64_t n_tiles;
  double* sums;      // [n_tiles + 1], anything; not read unless step.measure
  uint32_t* ticket;  // [1], 0, and 0 again afterwards
};

// Two launches, one where step.measure is false; as many again for every further kAdamwMostTensors.
constexpr int kAdamwMostTensors = 240;
cudaError_t launch_layerwise_adamw(const LayerwiseAdamw& params, cudaStream_t stream);
#endif

}  // namespace ulmfit_fast
