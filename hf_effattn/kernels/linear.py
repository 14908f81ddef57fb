"""The ``cpu`` backend of `linear_attention`: the compiled operators, put together."""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .library import DTYPES
from .ops import linear_attention as operator


class FusedMap(Protocol):
    """The attributes of a `hf_effattn.models.base_map_layer.MapLayer`; this package does not import the models."""

    activation: str
    weight: Tensor | None
    bias: Tensor | None
    gate: Tensor | None


class Call(Protocol):
    """The attributes of a `hf_effattn.models.base_call.LinearAttentionCall` that this package reads."""

    key_mask: Tensor | None
    causal: bool
    normalize: bool
    scale: float | Tensor | None
    eps: float
    initial_state: Tensor | None
    dropout_p: float
    feature_map: FusedMap | None

    def scale_parts(self, query: Tensor) -> tuple[float, Tensor | None, Tensor | None]:
        """`scale` as a number, a factor of each token, and a factor for the finished output."""


def cpu_linear_attention(query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """See `hf_effattn.models.ops_linear.linear_attention`; float32 or bfloat16, on the CPU.

    With ``call.feature_map`` the queries and keys are ``[B, H, N, d]`` before it, and no tensor of features is made.

    Raises:
        ValueError: the tensors lie on several devices.
        RuntimeError: a transform of torch.func, or a forward-mode derivative: they would leave attention out.
    """
    weight, bias, gate, activation = _map_parameters(call.feature_map)
    state = None if call.initial_state is None else call.initial_state.float()
    _check(query, key, value, call.key_mask, call.scale, state, weight, bias, gate)
    dtype = query.dtype
    key, value = (tensor if tensor.dtype in DTYPES else tensor.to(dtype) for tensor in (key, value))
    factor, rows, outside = call.scale_parts(query)
    if outside is not None:
        # The gradient of a scale is a sum over many products, of which none may have been rounded to half precision.
        query = query.float()
    keep = None
    if call.dropout_p > 0:
        # Dropout acts on the entries of the state, and is not defined with a denominator.
        features = query.shape[-1] if weight is None else weight.shape[-1]
        ones = torch.ones(*query.shape[:2], features, value.shape[-1], device=query.device)
        keep = torch.dropout(ones, call.dropout_p, True)
    tensors = (query, key, value, call.key_mask, rows, state, keep, weight, bias, gate)
    output, state = operator(*tensors, activation, call.causal, call.normalize, call.eps, factor)
    return output if outside is None else (output * outside.float()).to(dtype), state


def _check(query: Tensor, *others: Tensor | float | None) -> None:
    """Raise an error where torch would return a result of the right shape only, or a derivative without attention."""
    for tensor in others:
        if isinstance(tensor, Tensor) and tensor.device != query.device:
            raise ValueError(f"the cpu kernels got tensors on {query.device} and on {tensor.device}; load all of them")
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise RuntimeError(
            "the cpu kernels have no forward-mode derivatives, and no form for torch.func's transforms (grad, vmap, "
            'jvp): use attention_backend="auto" or "torch"'
        )


def _map_parameters(feature_map: FusedMap | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, str]:
    """Weight, bias, gate and activation as the operators take them."""
    if feature_map is None:
        return None, None, None, "identity"
    tensors = (feature_map.weight, feature_map.bias, feature_map.gate)
    weight, bias, gate = (None if one is None else one.float().contiguous() for one in tensors)
    return weight, bias, gate, feature_map.activation
