// The arguments of every operator, and what their loops over heads and chunks share.
#pragma once

#include <algorithm>
#include <atomic>
#include <new>
#include <type_traits>

#include "feature_map.h"

namespace effattn {

// Tokens that are held in cache at a time; a multiple of kLanes.
constexpr int kChunk = 64;

// One struct for all operators; each reads what it needs. Mirrored field by field in ../library.py.
struct Arguments {
  Tensor query, key, value;               // query and key [B, H, N, dim], value [B, H, N, value_dim]
  Tensor output, grad_output;             // [B, H, N, value_dim]
  Tensor grad_query, grad_key, grad_value;
  Tensor scale;                           // float32 [B, H, N], or absent
  const uint8_t* key_mask;                // [B, N], nonzero for a real token, or null
  int64_t mask_batch_stride, mask_row_stride;
  // Contiguous float32 [B, H, features, value_dim + normalize]; the column after the values is the sum of the keys.
  const float *state_in, *grad_state_in;
  float *state_out, *grad_state_out;
  MapArguments map;
  MapGradients grad_map;                  // one slot per task, see slots()
  int64_t batch, heads, length;
  int32_t dim, features, value_dim;
  int32_t normalize;                      // 0 or 1
  float eps, factor;                      // the output is multiplied by factor, and by `scale` if there is one
  int32_t threads;

  int state_columns() const { return value_dim + normalize; }
  int64_t rows_of_heads() const { return batch * heads; }
  bool is_real(int64_t b, int64_t n) const {
    return !key_mask || key_mask[b * mask_batch_stride + n * mask_row_stride];
  }
  float scale_at(int64_t b, int64_t h, int64_t n) const {
    return scale ? factor * static_cast<const float*>(scale.data)[scale.offset(b, h, n)] : factor;
  }
  // 1 for a sum of 0 without eps: a query that sees no key, whose numerator is 0 as well, reads zeros.
  float denominator(float total) const { return total + eps == 0 ? 1 : total + eps; }
};

// The bidirectional operators divide a sequence among tasks. The division depends on its length only, so that neither
// the batch nor the number of threads changes a result.
constexpr int64_t kBlock = 2048, kMaxBlocks = 16;

inline int64_t block_length(int64_t length) {
  const int64_t longest = (length + kMaxBlocks - 1) / kMaxBlocks;
  const int64_t block = longest > kBlock ? longest : kBlock;
  return (block + kChunk - 1) / kChunk * kChunk;
}
inline int64_t block_count(int64_t length) { return (length + block_length(length) - 1) / block_length(length); }

inline int chunk_rows(int64_t n, int64_t end) { return end - n < kChunk ? int(end - n) : kChunk; }

// Runs worker(task) for every task, each thread with a worker of its own; false if memory ran out.
template <typename MakeWorker>
bool for_each_task(int64_t tasks, int threads, MakeWorker make_worker) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  if (tasks < threads) threads = int(tasks);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    try {
      Scratch scratch;
      auto worker = make_worker(scratch);
      for (int64_t task; !failed && (task = next++) < tasks;) worker(task);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  return !failed;
}

// Queries or keys, a chunk at a time: rows as they were given, their features, and the way back.
class Side {
 public:
  // The features go to `phi` [kChunk, ld_phi], or to a buffer of its own if null.
  Side(Scratch& scratch, const Arguments& a, const Tensor& rows, bool masked, bool backward, float* phi = nullptr,
       int ld_phi = 0)
      : a_(a), rows_(rows), masked_(masked && a.key_mask), map_(scratch, a.map, a.dim, a.features, backward),
        ld_x_(round_up(a.dim)), ld_phi_(phi ? ld_phi : map_.ld()) {
    buffer_ = scratch.take(ptrdiff_t(kChunk) * ld_x_);
    phi_ = phi ? phi : scratch.take(ptrdiff_t(kChunk) * ld_phi_);
    if (backward) grad_x_ = scratch.take(ptrdiff_t(kChunk) * ld_x_);
    if (map_.elementwise()) return;
    linear_ = scratch.take(ptrdiff_t(kChunk) * map_.ld());
    gates_ = scratch.take(ptrdiff_t(kChunk) * map_.ld());
  }

  FeatureMap& map() { return map_; }
  float* phi() const { return phi_; }
  int ld() const { return ld_phi_; }

  // Rows beyond `rows` get zero features, as masked ones do.
  void load(int64_t b, int64_t h, int64_t n, int rows) {
    x_ = view_rows(rows_, b, h, n, rows, a_.dim, !map_.elementwise(), buffer_, ld_x_);
    map_.forward(x_, rows, phi_, ld_phi_, linear_, gates_);
    clear_masked(phi_, ld_phi_, b, n, rows);
    for (int i = rows; i < kChunk; ++i) zero(phi_ + ptrdiff_t(i) * ld_phi_, map_.ld());
  }

  // From the gradient of the features, [rows, map().ld()], which is overwritten, to that of the rows.
  void backward(int64_t b, int64_t h, int64_t n, int rows, float* grad_phi, const Tensor& grad_rows) {
    clear_masked(grad_phi, map_.ld(), b, n, rows);
    map_.backward(x_, rows, grad_phi, linear_, gates_, grad_x_);
    store_rows(grad_rows, b, h, n, rows, a_.dim, grad_x_, ld_x_);
  }

 private:
  void clear_masked(float* p, int ld, int64_t b, int64_t n, int rows) const {
    if (!masked_) return;
    for (int i = 0; i < rows; ++i)
      if (!a_.is_real(b, n + i)) zero(p + ptrdiff_t(i) * ld, map_.ld());
  }

  const Arguments& a_;
  const Tensor& rows_;
  bool masked_;
  FeatureMap map_;
  int ld_x_, ld_phi_;
  Rows x_{};
  float *buffer_, *phi_, *linear_ = nullptr, *gates_ = nullptr, *grad_x_ = nullptr;
};

// A state [features x value_dim] with its sum of keys, as the products read it: padded rows.
struct State {
  int ld, features, columns, normalize;
  float *kv, *k_sum;

  // S goes to `at` if that is not null.
  State(Scratch& scratch, const Arguments& a, float* at = nullptr)
      : ld(round_up(a.value_dim)), features(a.features), columns(a.value_dim), normalize(a.normalize),
        kv(at ? at : scratch.take(ptrdiff_t(round_up(a.features)) * ld)), k_sum(scratch.take(round_up(a.features))) {}

  // From and to the contiguous form in which states cross the interface; a null pointer is a state of zeros.
  // The padding is zeroed as well: a NaN in another row of the batch has spread to it.
  void read(const float* from) {
    zero(kv, ptrdiff_t(round_up(features)) * ld);
    zero(k_sum, round_up(features));
    for (int f = 0; from && f < features; ++f) {
      std::memcpy(kv + ptrdiff_t(f) * ld, from, sizeof(float) * columns);
      if (normalize) k_sum[f] = from[columns];
      from += columns + normalize;
    }
  }
  void write(float* to) const {
    for (int f = 0; f < features; ++f) {
      std::memcpy(to, kv + ptrdiff_t(f) * ld, sizeof(float) * columns);
      if (normalize) to[columns] = k_sum[f];
      to += columns + normalize;
    }
  }
};

inline float dot(const float* a, const float* b, int length) {  // both padded with zeros
  Vec total = {};
  for (int j = 0; j < length; j += kLanes) total += load(a + j) * load(b + j);
  return sum(total);
}

inline void add_scaled(float* to, float factor, const float* from, int length) {
  for (int j = 0; j < length; j += kLanes) store(to + j, load(to + j) + factor * load(from + j));
}

inline void scale_row(float* row, float factor, int length) {
  for (int j = 0; j < length; j += kLanes) store(row + j, load(row + j) * factor);
}

// Adds the sum of rows, each times its weight if there are weights: rounded once beside what `to` holds.
inline void add_rows(float* to, const float* from, int rows, int ld, const float* weights = nullptr) {
  for (int j = 0; j < ld; j += kLanes) {
    Vec total = {};
    for (int i = 0; i < rows; ++i) total += (weights ? weights[i] : 1.0f) * load(from + ptrdiff_t(i) * ld + j);
    store(to + j, load(to + j) + total);
  }
}

// The chain rule for one row of the output, out = scale * n / den: `grad` holds S dout and becomes the gradient dphi of
// its features; the results are the factor of the gradient of n, and the gradient of den.
struct RowGradient {
  float factor, denominator;
};

inline RowGradient finish_row_gradient(const Arguments& a, float scale, const float* phi, const float* k_sum,
                                       float* grad, int ld) {
  if (!a.normalize) {
    scale_row(grad, scale, ld);
    return {scale, 0};
  }
  const float inverse = 1.0f / a.denominator(dot(phi, k_sum, ld));
  const float factor = scale * inverse;
  // In this order, since the square of the inverse of a small denominator is beyond float32.
  const float denominator = -factor * (inverse * dot(phi, grad, ld));
  for (int j = 0; j < ld; j += kLanes) store(grad + j, factor * load(grad + j) + denominator * load(k_sum + j));
  return {factor, denominator};
}

}  // namespace effattn
