// The C interface of the kernels: one function per operator, 0 for success and 1 if memory ran out.
#include <cstddef>
#include <new>
#include <type_traits>

#include "bidirectional.h"
#include "causal_backward.h"

namespace {

// A field of a struct that crosses the interface, or a name of an enum with its value; `name` is null at the end.
struct Field {
  const char* name;
  int64_t offset, size;
  char kind;  // p(ointer), f(loat), i(nteger), s(truct) or e(num)
};

template <typename T>
constexpr char kind() {
  return std::is_pointer_v<T> ? 'p' : std::is_floating_point_v<T> ? 'f' : std::is_integral_v<T> ? 'i' : 's';
}

#define FIELD(type, field)                                                                   \
  {#type "." #field, offsetof(effattn::type, field), int64_t(sizeof(effattn::type::field)), \
   kind<decltype(effattn::type::field)>()}
#define VALUE(type, value) {#type "." #value, effattn::value, int64_t(sizeof(effattn::type)), 'e'}

const Field kLayout[] = {
    FIELD(Tensor, data), FIELD(Tensor, batch_stride), FIELD(Tensor, head_stride), FIELD(Tensor, row_stride),
    FIELD(Tensor, type),
    FIELD(MapArguments, activation), FIELD(MapArguments, weight), FIELD(MapArguments, bias),
    FIELD(MapArguments, gate),
    FIELD(MapGradients, weight), FIELD(MapGradients, bias), FIELD(MapGradients, gate),
    FIELD(Arguments, query), FIELD(Arguments, key), FIELD(Arguments, value), FIELD(Arguments, output),
    FIELD(Arguments, grad_output), FIELD(Arguments, grad_query), FIELD(Arguments, grad_key),
    FIELD(Arguments, grad_value), FIELD(Arguments, scale), FIELD(Arguments, key_mask),
    FIELD(Arguments, mask_batch_stride), FIELD(Arguments, mask_row_stride), FIELD(Arguments, state_in),
    FIELD(Arguments, grad_state_in), FIELD(Arguments, state_out), FIELD(Arguments, grad_state_out),
    FIELD(Arguments, map), FIELD(Arguments, grad_map), FIELD(Arguments, batch), FIELD(Arguments, heads),
    FIELD(Arguments, length), FIELD(Arguments, dim), FIELD(Arguments, features), FIELD(Arguments, value_dim),
    FIELD(Arguments, normalize), FIELD(Arguments, eps), FIELD(Arguments, factor), FIELD(Arguments, threads),
    VALUE(Type, kFloat32), VALUE(Type, kBFloat16),
    VALUE(Activation, kIdentity), VALUE(Activation, kElu), VALUE(Activation, kRelu), VALUE(Activation, kSoftplus),
    {nullptr, int64_t(sizeof(effattn::Arguments)), 0, 0},  // the end: the size of all
};

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

// So that a caller whose view of the structs differs is found out before it does harm.
const Field* effattn_layout() { return kLayout; }

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
