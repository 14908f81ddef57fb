// The gradients of causal attention, in two passes: for the queries from the first chunk to the last, with the state
// before each chunk; for keys and values from the last to the first, with what later queries have sent back.
#pragma once

#include <vector>

#include "causal.h"

namespace effattn {

// dphi(q_n) = S_n dn_n + dden_n z_n. Stores the factors of the rows for the next pass.
class CausalQueryGradient {
 public:
  CausalQueryGradient(Scratch& scratch, const Arguments& a)
      : a_(a), ld_f_(round_up(a.features)), ld_v_(round_up(a.value_dim)), ld_left_(ld_v_ + kChunk),
        left_(scratch.take(ptrdiff_t(kChunk) * ld_left_)), right_(scratch.take(ptrdiff_t(ld_v_ + kChunk) * ld_f_)),
        values_(scratch.take(ptrdiff_t(kChunk) * ld_v_)), values_t_(scratch.take(ptrdiff_t(ld_v_) * kChunk)),
        grad_phi_(scratch.take(ptrdiff_t(kChunk) * ld_f_)), recent_(scratch.take(ld_f_)), seen_(scratch.take(ld_f_)),
        state_(scratch, a), queries_(scratch, a, a.query, false, true),
        keys_(scratch, a, a.key, true, false, right_ + ptrdiff_t(ld_v_) * ld_f_, ld_f_) {}

  void operator()(int64_t head, RowGradient* rows) {
    const int64_t size = int64_t(a_.features) * a_.state_columns();
    state_.read(a_.state_in ? a_.state_in + head * size : nullptr);
    transpose(state_.kv, ld_v_, a_.features, a_.value_dim, right_, ld_f_);
    queries_.map().select(head % a_.heads);
    keys_.map().select(head % a_.heads);
    for (int64_t n = 0; n < a_.length; n += kChunk)
      chunk(head / a_.heads, head % a_.heads, n, chunk_rows(n, a_.length), rows + n);
    queries_.map().add_gradients(a_.grad_map, head);
  }

 private:
  void chunk(int64_t b, int64_t h, int64_t n, int rows, RowGradient* factors) {
    float* state_t = right_;
    queries_.load(b, h, n, rows);
    keys_.load(b, h, n, rows);
    load_chunk(a_.value, b, h, n, rows, a_.value_dim, values_, ld_v_);
    load_rows(a_.grad_output, b, h, n, rows, a_.value_dim, left_, ld_left_);
    transpose_chunk(values_, ld_v_, rows, a_.value_dim, values_t_);
    lower_triangle(rows, a_.value_dim, left_, ld_left_, values_t_, left_ + ld_v_, ld_left_);
    multiply_with_lower(rows, a_.features, ld_v_, left_, ld_left_, right_, ld_f_, grad_phi_);
    zero(recent_, ld_f_);
    for (int i = 0; i < rows; ++i) {
      const ptrdiff_t at = ptrdiff_t(i) * ld_f_;
      if (a_.normalize) {
        add_scaled(recent_, 1.0f, keys_.phi() + at, ld_f_);
        std::memcpy(seen_, state_.k_sum, sizeof(float) * ld_f_);
        add_scaled(seen_, 1.0f, recent_, ld_f_);
      }
      factors[i] = finish_row_gradient(a_, a_.scale_at(b, h, n + i), queries_.phi() + at, seen_, grad_phi_ + at, ld_f_);
    }
    if (a_.normalize) std::memcpy(state_.k_sum, seen_, sizeof(float) * ld_f_);
    queries_.backward(b, h, n, rows, grad_phi_, a_.grad_query);
    gemm<true>(a_.value_dim, a_.features, rows, values_, 1, ld_v_, keys_.phi(), ld_f_, state_t, ld_f_,
               both(next_inputs(a_, b, h, n + kChunk),
                    RowStream<>(a_.grad_output, b, h, n + kChunk, kChunk, a_.value_dim)));
  }

  const Arguments& a_;
  int ld_f_, ld_v_, ld_left_;
  float *left_, *right_;  // [dout | dout V^T] and [S^T ; phi(K)]
  float *values_, *values_t_, *grad_phi_, *recent_, *seen_;  // z of the chunk's keys, and of all keys so far
  State state_;
  Side queries_, keys_;
};

// dphi(k_m) = R_m v_m + r_m and dv_m = R_m^T phi(k_m), with R_m = sum_{n >= m} phi(q_n) dn_n^T plus the gradient of the
// last state, and r_m = sum_{n >= m} dden_n phi(q_n) likewise.
class CausalKeyGradient {
 public:
  CausalKeyGradient(Scratch& scratch, const Arguments& a)
      : a_(a), ld_f_(round_up(a.features)), ld_v_(round_up(a.value_dim)), ld_g_(kChunk + ld_v_), ld_p_(kChunk + ld_f_),
        left_g_(scratch.take(ptrdiff_t(kChunk) * ld_g_)), right_g_(scratch.take(ptrdiff_t(kChunk + ld_v_) * ld_f_)),
        left_p_(scratch.take(ptrdiff_t(kChunk) * ld_p_)), right_p_(scratch.take(ptrdiff_t(kChunk + ld_f_) * ld_v_)),
        transposed_(scratch.take(ptrdiff_t(std::max(ld_f_, ld_v_)) * kChunk)),
        grad_values_(scratch.take(ptrdiff_t(kChunk) * ld_v_)), grad_phi_(scratch.take(ptrdiff_t(kChunk) * ld_f_)),
        grad_denominators_(scratch.take(kChunk)), later_(scratch, a, right_p_ + ptrdiff_t(kChunk) * ld_v_),
        queries_(scratch, a, a.query, false, false, right_g_, ld_f_),
        keys_(scratch, a, a.key, true, true, left_p_ + kChunk, ld_p_) {}

  void operator()(int64_t head, const RowGradient* rows) {
    const int64_t size = int64_t(a_.features) * a_.state_columns();
    later_.read(a_.grad_state_in ? a_.grad_state_in + head * size : nullptr);
    transpose(later_.kv, ld_v_, a_.features, a_.value_dim, later_t(), ld_f_);
    queries_.map().select(head % a_.heads);
    keys_.map().select(head % a_.heads);
    for (int64_t n = (a_.length - 1) / kChunk * kChunk; n >= 0; n -= kChunk)
      chunk(head / a_.heads, head % a_.heads, n, chunk_rows(n, a_.length), rows + n);
    transpose(later_t(), ld_f_, a_.value_dim, a_.features, later_.kv, ld_v_);
    if (a_.grad_state_out) later_.write(a_.grad_state_out + head * size);
    keys_.map().add_gradients(a_.grad_map, head);
  }

 private:
  float* later_t() { return right_g_ + ptrdiff_t(kChunk) * ld_f_; }

  void chunk(int64_t b, int64_t h, int64_t n, int rows, const RowGradient* factors) {
    float *values = left_g_ + kChunk, *grad_output = right_p_;
    queries_.load(b, h, n, rows);
    keys_.load(b, h, n, rows);
    load_rows(a_.value, b, h, n, rows, a_.value_dim, values, ld_g_);
    load_chunk(a_.grad_output, b, h, n, rows, a_.value_dim, grad_output, ld_v_);
    for (int i = 0; i < rows; ++i) {
      scale_row(grad_output + ptrdiff_t(i) * ld_v_, factors[i].factor, ld_v_);
      grad_denominators_[i] = factors[i].denominator;
    }
    transpose(later_t(), ld_f_, a_.value_dim, a_.features, later_.kv, ld_v_);
    value_gradient(b, h, n, rows);
    key_gradient(b, h, n, rows);
    gemm<true>(a_.value_dim, a_.features, rows, grad_output, 1, ld_v_, queries_.phi(), ld_f_, later_t(), ld_f_,
               both(next_inputs(a_, b, h, n - kChunk),
                    RowStream<>(a_.grad_output, b, h, n - kChunk, kChunk, a_.value_dim)));
    if (a_.normalize) add_rows(later_.k_sum, queries_.phi(), rows, ld_f_, grad_denominators_);
  }

  void value_gradient(int64_t b, int64_t h, int64_t n, int rows) {
    transpose_chunk(queries_.phi(), ld_f_, rows, a_.features, transposed_);
    upper_triangle(rows, a_.features, keys_.phi(), ld_p_, transposed_, nullptr, left_p_, ld_p_);
    multiply_with_upper(rows, a_.value_dim, ld_f_, left_p_, ld_p_, right_p_, ld_v_, grad_values_);
    store_rows(a_.grad_value, b, h, n, rows, a_.value_dim, grad_values_, ld_v_);
  }

  void key_gradient(int64_t b, int64_t h, int64_t n, int rows) {
    transpose_chunk(right_p_, ld_v_, rows, a_.value_dim, transposed_);
    upper_triangle(rows, a_.value_dim, left_g_ + kChunk, ld_g_, transposed_, grad_denominators_, left_g_, ld_g_);
    multiply_with_upper(rows, a_.features, ld_v_, left_g_, ld_g_, right_g_, ld_f_, grad_phi_);
    if (a_.normalize)
      for (int i = 0; i < rows; ++i) add_scaled(grad_phi_ + ptrdiff_t(i) * ld_f_, 1.0f, later_.k_sum, ld_f_);
    keys_.backward(b, h, n, rows, grad_phi_, a_.grad_key);
  }

  const Arguments& a_;
  int ld_f_, ld_v_, ld_g_, ld_p_;
  float *left_g_, *right_g_;  // [V dn^T + dden | V] and [phi(Q) ; R^T]
  float *left_p_, *right_p_;  // [phi(K) phi(Q)^T | phi(K)] and [dn ; R]
  float *transposed_, *grad_values_, *grad_phi_, *grad_denominators_;
  State later_;
  Side queries_, keys_;
};

inline bool causal_backward(const Arguments& a) {
  return for_each_task(a.rows_of_heads(), a.threads, [&](Scratch& scratch) {
    return [queries = CausalQueryGradient(scratch, a), keys = CausalKeyGradient(scratch, a),
            rows = std::vector<RowGradient>(a.length)](int64_t head) mutable {
      queries(head, rows.data());
      keys(head, rows.data());
    };
  });
}

}  // namespace effattn
