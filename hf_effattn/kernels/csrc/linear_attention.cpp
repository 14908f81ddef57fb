// The C interface of the kernels: one function per operator, 0 for success and 1 if memory ran out.
#include <new>

#include "bidirectional.h"
#include "causal_backward.h"

namespace {

int run(bool (*function)(const effattn::Arguments&), const effattn::Arguments* arguments) {
  try {
    return function(*arguments) ? 0 : 1;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

#pragma GCC visibility push(default)

extern "C" {

// So that a caller whose view of the struct differs is found out before it does harm.
int64_t effattn_arguments_size() { return sizeof(effattn::Arguments); }

// How many slots the gradients of a map's parameters need, per batch row and head, in the bidirectional operators.
int64_t effattn_block_count(int64_t length) { return effattn::block_count(length); }

int effattn_sum_forward(const effattn::Arguments* a) { return run(effattn::sum_forward, a); }
int effattn_sum_backward(const effattn::Arguments* a) { return run(effattn::sum_backward, a); }
int effattn_read_forward(const effattn::Arguments* a) { return run(effattn::read_forward, a); }
int effattn_read_backward(const effattn::Arguments* a) { return run(effattn::read_backward, a); }
int effattn_causal_forward(const effattn::Arguments* a) { return run(effattn::causal_forward, a); }
int effattn_causal_backward(const effattn::Arguments* a) { return run(effattn::causal_backward, a); }

}  // extern "C"

#pragma GCC visibility pop
