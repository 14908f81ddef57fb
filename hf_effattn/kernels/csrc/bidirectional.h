// The two halves of bidirectional attention: keys and values summed to a state, and queries reading it.
#pragma once

#include <vector>

#include "arguments.h"

namespace effattn {

// Visits the chunks of the head and the block that belong to `task`.
template <typename Visit>
void for_each_chunk(const Arguments& a, int64_t task, Visit visit) {
  const int64_t head = task % a.rows_of_heads(), block = block_length(a.length);
  const int64_t begin = task / a.rows_of_heads() * block, end = std::min(begin + block, a.length);
  for (int64_t n = begin; n < end; n += kChunk) visit(head / a.heads, head % a.heads, n, chunk_rows(n, end));
}

// Runs `worker(task, partial state)` for every head and block, and adds the partial states of each head up.
template <typename MakeWorker>
bool sum_over_blocks(const Arguments& a, float* to, MakeWorker make_worker) {
  const int64_t heads = a.rows_of_heads(), blocks = block_count(a.length);
  const int64_t size = int64_t(a.features) * a.state_columns();
  std::vector<float> sums(blocks > 1 ? blocks * heads * size : 0);
  float* partial = blocks > 1 ? sums.data() : to;
  bool done = for_each_task(heads * blocks, a.threads, [&](Scratch& scratch) {
    return [worker = make_worker(scratch), partial, size](int64_t task) mutable {
      worker(task, partial + task * size);
    };
  });
  if (blocks == 1 || !done) return done;
  for (int64_t i = 0; i < heads * size; ++i) {
    float total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += partial[block * heads * size + i];
    to[i] = total;
  }
  return true;
}

// state = sum_m phi(k_m) [v_m, 1]^T
inline bool sum_forward(const Arguments& a) {
  return sum_over_blocks(a, a.state_out, [&](Scratch& scratch) {
    State state(scratch, a);
    Side keys(scratch, a, a.key, true, false);
    float* values = scratch.take(ptrdiff_t(kChunk) * state.ld);
    return [&a, state, keys, values](int64_t task, float* partial) mutable {
      state.read(nullptr);
      keys.map().select(task % a.heads);
      for_each_chunk(a, task, [&](int64_t b, int64_t h, int64_t n, int rows) {
        keys.load(b, h, n, rows);
        const Rows v = view_rows(a.value, b, h, n, rows, a.value_dim, true, values, state.ld);
        auto next = both(RowStream<>(a.key, b, h, n + kChunk, kChunk, a.dim),
                         RowStream<>(a.value, b, h, n + kChunk, kChunk, a.value_dim));
        gemm<true>(a.features, a.value_dim, rows, keys.phi(), 1, keys.ld(), v.data, v.ld, state.kv, state.ld, next);
        if (a.normalize) add_rows(state.k_sum, keys.phi(), rows, keys.ld());
      });
      state.write(partial);
    };
  });
}

// dphi(k_m) = dS v_m + dz, dv_m = dS^T phi(k_m)
inline bool sum_backward(const Arguments& a) {
  return for_each_task(a.rows_of_heads() * block_count(a.length), a.threads, [&](Scratch& scratch) {
    State grad(scratch, a);
    Side keys(scratch, a, a.key, true, true);
    float* grad_t = scratch.take(ptrdiff_t(grad.ld) * keys.ld());
    float* values = scratch.take(ptrdiff_t(kChunk) * grad.ld);
    float* grad_values = scratch.take(ptrdiff_t(kChunk) * grad.ld);
    float* grad_phi = scratch.take(ptrdiff_t(kChunk) * keys.ld());
    return [&a, grad, keys, grad_t, values, grad_values, grad_phi](int64_t task) mutable {
      grad.read(a.grad_state_in + task % a.rows_of_heads() * a.features * a.state_columns());
      transpose(grad.kv, grad.ld, a.features, a.value_dim, grad_t, keys.ld());
      keys.map().select(task % a.heads);
      for_each_chunk(a, task, [&](int64_t b, int64_t h, int64_t n, int rows) {
        keys.load(b, h, n, rows);
        const Rows v = view_rows(a.value, b, h, n, rows, a.value_dim, true, values, grad.ld);
        auto next = both(RowStream<>(a.key, b, h, n + kChunk, kChunk, a.dim),
                         RowStream<>(a.value, b, h, n + kChunk, kChunk, a.value_dim));
        gemm<false>(rows, a.value_dim, a.features, keys.phi(), keys.ld(), 1, grad.kv, grad.ld, grad_values, grad.ld,
                    next);
        store_rows(a.grad_value, b, h, n, rows, a.value_dim, grad_values, grad.ld);
        gemm<false>(rows, a.features, a.value_dim, v.data, v.ld, 1, grad_t, keys.ld(), grad_phi, keys.ld());
        if (a.normalize)
          for (int i = 0; i < rows; ++i) add_scaled(grad_phi + ptrdiff_t(i) * keys.ld(), 1.0f, grad.k_sum, keys.ld());
        keys.backward(b, h, n, rows, grad_phi, a.grad_key);
      });
      keys.map().add_gradients(a.grad_map, task);
    };
  });
}

// out_n = scale phi(q_n) S / (phi(q_n) . z + eps)
inline bool read_forward(const Arguments& a) {
  return for_each_task(a.rows_of_heads() * block_count(a.length), a.threads, [&](Scratch& scratch) {
    State state(scratch, a);
    Side queries(scratch, a, a.query, false, false);
    float* output = scratch.take(ptrdiff_t(kChunk) * state.ld);
    return [&a, state, queries, output](int64_t task) mutable {
      state.read(a.state_in + task % a.rows_of_heads() * a.features * a.state_columns());
      queries.map().select(task % a.heads);
      for_each_chunk(a, task, [&](int64_t b, int64_t h, int64_t n, int rows) {
        queries.load(b, h, n, rows);
        auto next = both(RowStream<>(a.query, b, h, n + kChunk, kChunk, a.dim),
                         RowStream<true>(a.output, b, h, n, rows, a.value_dim));
        gemm<false>(rows, a.value_dim, a.features, queries.phi(), queries.ld(), 1, state.kv, state.ld, output,
                    state.ld, next);
        float factors[kChunk];
        for (int i = 0; i < rows; ++i) {
          factors[i] = a.scale_at(b, h, n + i);
          if (!a.normalize) continue;
          factors[i] /= a.denominator(dot(queries.phi() + ptrdiff_t(i) * queries.ld(), state.k_sum, queries.ld()));
        }
        store_rows(a.output, b, h, n, rows, a.value_dim, output, state.ld, factors);
      });
    };
  });
}

// dS = sum_n phi(q_n) dn_n^T, dz = sum_n dden_n phi(q_n), and dphi(q_n) = S dn_n + dden_n z
inline bool read_backward(const Arguments& a) {
  return sum_over_blocks(a, a.grad_state_out, [&](Scratch& scratch) {
    State state(scratch, a), grad(scratch, a);
    Side queries(scratch, a, a.query, false, true);
    float* state_t = scratch.take(ptrdiff_t(state.ld) * queries.ld());
    float* grad_output = scratch.take(ptrdiff_t(kChunk) * state.ld);
    float* grad_phi = scratch.take(ptrdiff_t(kChunk) * queries.ld());
    return [&a, state, grad, queries, state_t, grad_output, grad_phi](int64_t task, float* partial) mutable {
      const int ld = queries.ld();
      state.read(a.state_in + task % a.rows_of_heads() * a.features * a.state_columns());
      transpose(state.kv, state.ld, a.features, a.value_dim, state_t, ld);
      grad.read(nullptr);
      queries.map().select(task % a.heads);
      for_each_chunk(a, task, [&](int64_t b, int64_t h, int64_t n, int rows) {
        queries.load(b, h, n, rows);
        load_rows(a.grad_output, b, h, n, rows, a.value_dim, grad_output, state.ld);
        gemm<false>(rows, a.features, a.value_dim, grad_output, state.ld, 1, state_t, ld, grad_phi, ld);
        float denominators[kChunk];
        for (int i = 0; i < rows; ++i) {
          const float* phi = queries.phi() + ptrdiff_t(i) * ld;
          const RowGradient row = finish_row_gradient(a, a.scale_at(b, h, n + i), phi, state.k_sum,
                                                      grad_phi + ptrdiff_t(i) * ld, ld);
          scale_row(grad_output + ptrdiff_t(i) * state.ld, row.factor, state.ld);
          denominators[i] = row.denominator;
        }
        if (a.normalize) add_rows(grad.k_sum, queries.phi(), rows, ld, denominators);
        auto next = both(RowStream<>(a.query, b, h, n + kChunk, kChunk, a.dim),
                         RowStream<>(a.grad_output, b, h, n + kChunk, kChunk, a.value_dim));
        gemm<true>(a.features, a.value_dim, rows, queries.phi(), 1, ld, grad_output, state.ld, grad.kv, state.ld, next);
        queries.backward(b, h, n, rows, grad_phi, a.grad_query);
      });
      grad.write(partial);
      queries.map().add_gradients(a.grad_map, task);
    };
  });
}

}  // namespace effattn
