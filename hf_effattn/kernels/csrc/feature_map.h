// phi(x) = act(x W + b) * sigmoid(x G) on a chunk of rows, forward and backward.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "tensors.h"

namespace effattn {

enum Activation : int32_t { kIdentity = 0, kElu = 1, kRelu = 2, kSoftplus = 3 };

// As it crosses the C interface: contiguous float32 [heads, dim, features], bias [heads, features]; null if absent.
struct MapArguments {
  int32_t activation;
  const float *weight, *bias, *gate;
};

// Where the backward pass writes the gradients of the map's parameters: one slot per task, shaped like them.
struct MapGradients {
  float *weight, *bias, *gate;
};

template <int A>
inline Vec activate(Vec x) {
  if constexpr (A == kIdentity) return x;
  if constexpr (A == kElu) return x > 0.0f ? x + 1.0f : exp_of_negative(min(x, Vec{}));
  if constexpr (A == kRelu) return max(x, Vec{});
  if constexpr (A == kSoftplus) {
    Vec magnitude = max(x, -x);
    return max(x, Vec{}) + log1p_unit(exp_of_negative(-magnitude));
  }
}

// The gradient of x from that of its activation.
template <int A>
inline Vec chain(Vec gradient, Vec x) {
  if constexpr (A == kIdentity) return gradient;
  if constexpr (A == kElu) return x > 0.0f ? gradient : gradient * exp_of_negative(min(x, Vec{}));
  // As torch's: a NaN counts as positive, and zero takes the place of any gradient, also of one that is no number.
  if constexpr (A == kRelu) return x <= 0.0f ? Vec{} : gradient;
  if constexpr (A == kSoftplus) return gradient * sigmoid(x);
}

// Calls f with the activation as a compile-time constant.
template <typename F>
inline void with_activation(int32_t activation, F f) {
  switch (activation) {
    case kIdentity: return f(std::integral_constant<int, kIdentity>());
    case kElu: return f(std::integral_constant<int, kElu>());
    case kRelu: return f(std::integral_constant<int, kRelu>());
    default: return f(std::integral_constant<int, kSoftplus>());
  }
}

// The map of one head at a time, with copies of its parameters and, for the backward pass, of their gradients.
class FeatureMap {
 public:
  FeatureMap(Scratch& scratch, const MapArguments& arguments, int dim, int features, bool backward)
      : arguments_(arguments), dim_(dim), features_(features), ld_dim_(round_up(dim)), ld_(round_up(features)) {
    if (!arguments.weight) return;
    const ptrdiff_t size = ptrdiff_t(ld_dim_) * ld_;
    weight_ = scratch.take(size);
    bias_ = scratch.take(ld_);
    if (arguments.gate) gate_ = scratch.take(size);
    if (!backward) return;
    weight_t_ = scratch.take(size);
    grad_weight_ = scratch.take(size);
    grad_bias_ = scratch.take(ld_);
    if (!gate_) return;
    gate_t_ = scratch.take(size);
    grad_gate_ = scratch.take(size);
  }

  bool elementwise() const { return !weight_; }
  int ld() const { return ld_; }

  // Makes `head` the current head, with gradients at zero.
  void select(int64_t head) {
    if (elementwise()) return;
    const ptrdiff_t size = ptrdiff_t(dim_) * features_;
    copy(arguments_.weight + head * size, weight_, weight_t_);
    if (gate_) copy(arguments_.gate + head * size, gate_, gate_t_);
    if (arguments_.bias) std::memcpy(bias_, arguments_.bias + head * features_, sizeof(float) * features_);
    if (!weight_t_) return;
    zero(grad_weight_, ptrdiff_t(ld_dim_) * ld_);
    zero(grad_bias_, ld_);
    if (gate_) zero(grad_gate_, ptrdiff_t(ld_dim_) * ld_);
  }

  // phi of x [rows x dim] into `phi` [rows, ld_phi]; `linear` and `gates`, as large as phi with leading dimension
  // ld(), keep x W + b and x G for `backward`.
  void forward(const Rows& x, int rows, float* phi, int ld_phi, float* linear, float* gates) const {
    if (!elementwise()) {
      for (int i = 0; i < rows; ++i) std::memcpy(linear + ptrdiff_t(i) * ld_, bias_, sizeof(float) * ld_);
      gemm<true>(rows, features_, dim_, x.data, x.ld, 1, weight_, ld_, linear, ld_);
      if (gate_) gemm<false>(rows, features_, dim_, x.data, x.ld, 1, gate_, ld_, gates, ld_);
    }
    const Rows before = elementwise() ? x : Rows{linear, ld_};
    with_activation(arguments_.activation, [&](auto activation) {
      constexpr int A = decltype(activation)::value;
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < ld_; j += kLanes) {
          Vec mapped = activate<A>(load(before.data + i * before.ld + j));
          if (gate_) mapped *= sigmoid(load(gates + ptrdiff_t(i) * ld_ + j));
          store(phi + ptrdiff_t(i) * ld_phi + j, mapped);
        }
    });
    clear_padding(phi, rows, ld_phi);
  }

  // The gradient of x into `grad_x`, from that of phi in `grad`; overwrites `grad` and `gates`. The gradients of the
  // parameters are added up.
  void backward(const Rows& x, int rows, float* grad, const float* linear, float* gates, float* grad_x) const {
    const Rows before = elementwise() ? x : Rows{linear, ld_};
    float* grad_linear = elementwise() ? grad_x : grad;
    with_activation(arguments_.activation, [&](auto activation) {
      constexpr int A = decltype(activation)::value;
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < ld_; j += kLanes) {
          const ptrdiff_t at = ptrdiff_t(i) * ld_ + j;
          const Vec g = load(grad + at), z = load(before.data + i * before.ld + j);
          if (!gate_) {
            store(grad_linear + at, chain<A>(g, z));
            continue;
          }
          const Vec open = sigmoid(load(gates + at));
          store(grad_linear + at, chain<A>(g * open, z));
          store(gates + at, g * activate<A>(z) * open * (1.0f - open));
        }
    });
    if (elementwise()) return;
    clear_padding(grad_linear, rows, ld_);
    parameter_gradients(x, rows, grad_linear, gates);
    gemm<false>(rows, dim_, features_, grad_linear, ld_, 1, weight_t_, ld_dim_, grad_x, ld_dim_);
    if (gate_) gemm<true>(rows, dim_, features_, gates, ld_, 1, gate_t_, ld_dim_, grad_x, ld_dim_);
  }

  // Adds the gradients of the parameters of the current head to slot `slot`.
  void add_gradients(const MapGradients& to, int64_t slot) const {
    if (elementwise()) return;
    const int64_t size = int64_t(dim_) * features_;
    for (int i = 0; i < dim_; ++i)
      for (int j = 0; j < features_; ++j) {
        const ptrdiff_t from = ptrdiff_t(i) * ld_ + j;
        const int64_t at = slot * size + int64_t(i) * features_ + j;
        to.weight[at] += grad_weight_[from];
        if (gate_) to.gate[at] += grad_gate_[from];
      }
    if (!arguments_.bias) return;
    for (int j = 0; j < features_; ++j) to.bias[slot * features_ + j] += grad_bias_[j];
  }

 private:
  void copy(const float* from, float* to, float* transposed) const {
    for (int i = 0; i < dim_; ++i)
      std::memcpy(to + ptrdiff_t(i) * ld_, from + ptrdiff_t(i) * features_, sizeof(float) * features_);
    if (transposed) transpose(to, ld_, dim_, features_, transposed, ld_dim_);
  }

  void parameter_gradients(const Rows& x, int rows, const float* grad_linear, const float* grad_gates) const {
    gemm<true>(dim_, features_, rows, x.data, 1, x.ld, grad_linear, ld_, grad_weight_, ld_);
    if (gate_) gemm<true>(dim_, features_, rows, x.data, 1, x.ld, grad_gates, ld_, grad_gate_, ld_);
    if (!arguments_.bias) return;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < ld_; j += kLanes)
        store(grad_bias_ + j, load(grad_bias_ + j) + load(grad_linear + ptrdiff_t(i) * ld_ + j));
  }

  // An activation makes something of the zeros beyond the last feature.
  void clear_padding(float* phi, int rows, int ld) const {
    if (features_ == ld_) return;
    for (int i = 0; i < rows; ++i)
      for (int j = features_; j < ld_; ++j) phi[ptrdiff_t(i) * ld + j] = 0;
  }

  MapArguments arguments_;
  int dim_, features_, ld_dim_, ld_;
  float *weight_ = nullptr, *bias_ = nullptr, *gate_ = nullptr, *weight_t_ = nullptr, *gate_t_ = nullptr;
  float *grad_weight_ = nullptr, *grad_bias_ = nullptr, *grad_gate_ = nullptr;
};

}  // namespace effattn
