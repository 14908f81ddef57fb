// Causal attention, chunk by chunk: quadratic inside a chunk, by the state between chunks.
//
// A chunk's queries read its own tokens and the state in one product, [Q | P] [S ; V] with P the lower triangle of
// Q K^T: the two factors lie side by side in memory, and the depth ends at the last token that a row may see.
#pragma once

#include <algorithm>

#include "arguments.h"

namespace effattn {

// Rows that share one depth; the part of a triangle that is multiplied in vain grows with it.
constexpr int kTriangleRows = 16;
static_assert(kTriangleRows % kLanes == 0 && kChunk % kTriangleRows == 0);

inline int round_up_triangle(int rows) { return (rows + kTriangleRows - 1) / kTriangleRows * kTriangleRows; }

// P = A B for [rows x rows], A [rows x depth], only where column <= row; zeros elsewhere within the chunk.
inline void lower_triangle(int rows, int depth, const float* a, int lda, const float* b, float* p, int ldp) {
  for (int i = 0; i < rows; i += kTriangleRows) {
    const int height = std::min(kTriangleRows, rows - i);
    gemm<false>(height, i + kTriangleRows, depth, a + ptrdiff_t(i) * lda, lda, 1, b, kChunk, p + ptrdiff_t(i) * ldp,
                ldp);
    for (int row = i; row < i + height; ++row)
      for (int col = row + 1; col < i + kTriangleRows; ++col) p[ptrdiff_t(row) * ldp + col] = 0;
  }
}

// The same where column >= row, with `added` on every row if it is not null.
inline void upper_triangle(int rows, int depth, const float* a, int lda, const float* b, const float* added, float* p,
                           int ldp) {
  for (int i = 0; i < rows; i += kTriangleRows) {
    const int height = std::min(kTriangleRows, rows - i);
    gemm<false>(height, round_up_triangle(rows) - i, depth, a + ptrdiff_t(i) * lda, lda, 1, b + i, kChunk,
                p + ptrdiff_t(i) * ldp + i, ldp);
    for (int row = i; row < i + height; ++row) {
      if (added) add_scaled(p + ptrdiff_t(row) * ldp + i, 1.0f, added + i, kChunk - i);
      for (int col = i; col < row; ++col) p[ptrdiff_t(row) * ldp + col] = 0;
      for (int col = rows; col < kChunk; ++col) p[ptrdiff_t(row) * ldp + col] = 0;
    }
  }
}

// C = [A | P] B, with P the lower triangle of a chunk behind the `depth` columns of A.
inline void multiply_with_lower(int rows, int cols, int depth, const float* a, int lda, const float* b, int ldb,
                                float* c) {
  for (int i = 0; i < rows; i += kTriangleRows) {
    const int height = std::min(kTriangleRows, rows - i);
    gemm<false>(height, cols, depth + i + height, a + ptrdiff_t(i) * lda, lda, 1, b, ldb, c + ptrdiff_t(i) * ldb, ldb);
  }
}

// C = [P | A] B, with P the upper triangle of a chunk before the `depth` columns of A.
inline void multiply_with_upper(int rows, int cols, int depth, const float* a, int lda, const float* b, int ldb,
                                float* c) {
  for (int i = 0; i < rows; i += kTriangleRows) {
    const int height = std::min(kTriangleRows, rows - i);
    gemm<false>(height, cols, kChunk - i + depth, a + ptrdiff_t(i) * lda + i, lda, 1, b + ptrdiff_t(i) * ldb, ldb,
                c + ptrdiff_t(i) * ldb, ldb);
  }
}

// Columns of rows of a chunk, [cols x kChunk], for a product with all of them; rows beyond `rows` hold zeros.
inline void transpose_chunk(const float* from, int ld, int rows, int cols, float* to) {
  transpose(from, ld, round_up_triangle(rows), cols, to, kChunk);
}

inline void load_chunk(const Tensor& t, int64_t b, int64_t h, int64_t n, int rows, int cols, float* to, int ld) {
  load_rows(t, b, h, n, rows, cols, to, ld);
  for (int i = rows; i < kChunk; ++i) zero(to + ptrdiff_t(i) * ld, round_up(cols));
}

// Queries, keys and values of the chunk at n.
inline auto next_inputs(const Arguments& a, int64_t b, int64_t h, int64_t n) {
  return both(RowStream<>(a.query, b, h, n, kChunk, a.dim),
              both(RowStream<>(a.key, b, h, n, kChunk, a.dim), RowStream<>(a.value, b, h, n, kChunk, a.value_dim)));
}

// out_n = scale phi(q_n) S_n / (phi(q_n) . z_n + eps), with S_n and z_n of the tokens up to n
class CausalForward {
 public:
  CausalForward(Scratch& scratch, const Arguments& a)
      : a_(a), ld_f_(round_up(a.features)), ld_v_(round_up(a.value_dim)), ld_left_(ld_f_ + kChunk),
        left_(scratch.take(ptrdiff_t(kChunk) * ld_left_)), right_(scratch.take(ptrdiff_t(ld_f_ + kChunk) * ld_v_)),
        keys_t_(scratch.take(ptrdiff_t(ld_f_) * kChunk)), output_(scratch.take(ptrdiff_t(kChunk) * ld_v_)),
        state_(scratch, a, right_), queries_(scratch, a, a.query, false, false, left_, ld_left_),
        keys_(scratch, a, a.key, true, false) {}

  void operator()(int64_t head) {
    const int64_t size = int64_t(a_.features) * a_.state_columns();
    state_.read(a_.state_in ? a_.state_in + head * size : nullptr);
    queries_.map().select(head % a_.heads);
    keys_.map().select(head % a_.heads);
    for (int64_t n = 0; n < a_.length; n += kChunk)
      chunk(head / a_.heads, head % a_.heads, n, chunk_rows(n, a_.length));
    state_.write(a_.state_out + head * size);
  }

 private:
  void chunk(int64_t b, int64_t h, int64_t n, int rows) {
    float *weights = left_ + ld_f_, *values = right_ + ptrdiff_t(ld_f_) * ld_v_;
    queries_.load(b, h, n, rows);
    keys_.load(b, h, n, rows);
    load_rows(a_.value, b, h, n, rows, a_.value_dim, values, ld_v_);
    transpose_chunk(keys_.phi(), keys_.ld(), rows, a_.features, keys_t_);
    lower_triangle(rows, a_.features, left_, ld_left_, keys_t_, weights, ld_left_);
    multiply_with_lower(rows, a_.value_dim, ld_f_, left_, ld_left_, right_, ld_v_, output_);
    float factors[kChunk];
    for (int i = 0; i < rows; ++i) {
      factors[i] = a_.scale_at(b, h, n + i);
      if (a_.normalize) factors[i] /= a_.denominator(total(i));
    }
    store_rows(a_.output, b, h, n, rows, a_.value_dim, output_, ld_v_, factors);
    gemm<true>(a_.features, a_.value_dim, rows, keys_.phi(), 1, keys_.ld(), values, ld_v_, state_.kv, ld_v_,
               next_inputs(a_, b, h, n + kChunk));
    if (a_.normalize) add_rows(state_.k_sum, keys_.phi(), rows, keys_.ld());
  }

  float total(int i) const {
    const float* row = left_ + ptrdiff_t(i) * ld_left_;
    Vec own = {};
    for (int j = 0; j <= i; j += kLanes) own += effattn::load(row + ld_f_ + j);
    return dot(row, state_.k_sum, ld_f_) + sum(own);
  }

  const Arguments& a_;
  int ld_f_, ld_v_, ld_left_;
  float *left_, *right_;  // [phi(Q) | P] and [S ; V]
  float *keys_t_, *output_;
  State state_;
  Side queries_, keys_;
};

inline bool causal_forward(const Arguments& a) {
  return for_each_task(a.rows_of_heads(), a.threads, [&](Scratch& scratch) { return CausalForward(scratch, a); });
}

}  // namespace effattn
