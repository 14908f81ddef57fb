"""The ``cpu`` backend of `linear_attention`: the compiled operators, put together."""

from typing import Any, Protocol

import torch

from .library import DTYPES
from .ops import linear_causal, linear_read, linear_sum


class FusedMap(Protocol):
    """What is read of a `hf_effattn.models.ops_maps.MapLayer`; this package knows nothing of the models."""

    activation: str
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    gate: torch.Tensor | None


def cpu_linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    normalize: bool = True,
    scale: float | torch.Tensor | None = None,
    eps: float = 1e-6,
    initial_state: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    feature_map: FusedMap | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `hf_effattn.models.ops_linear.linear_attention`; float32 or bfloat16, on the CPU.

    With `feature_map` the queries and keys are ``[B, H, N, d]`` before it, and no tensor of features is made.
    """
    parameters = _map_parameters(feature_map)
    key, value = (tensor if tensor.dtype in DTYPES else tensor.to(query.dtype) for tensor in (key, value))
    if initial_state is not None:
        initial_state = initial_state.float()
    factor, rows, outside = _divide_scale(scale, query)
    if causal:
        inputs = (query, key, value, key_mask, rows, initial_state)
        output, state = linear_causal(*inputs, *parameters, normalize, eps, factor)
    else:
        state = linear_sum(key, value, key_mask, *parameters, normalize)
        if initial_state is not None:
            state = state + initial_state
        memory = torch.dropout(state, dropout_p, True) if dropout_p > 0 else state
        output = linear_read(query, memory, rows, *parameters, normalize, eps, factor)
    return output if outside is None else output * outside.to(output.dtype), state


def _map_parameters(feature_map: FusedMap | None) -> tuple[Any, ...]:
    """Weight, bias, gate and activation as the operators take them."""
    if feature_map is None:
        return None, None, None, "identity"
    tensors = (feature_map.weight, feature_map.bias, feature_map.gate)
    return *(None if t is None else t.float().contiguous() for t in tensors), feature_map.activation


def _divide_scale(
    scale: float | torch.Tensor | None, query: torch.Tensor
) -> tuple[float, torch.Tensor | None, torch.Tensor | None]:
    """A scale as a number, as rows ``[B, H, N]`` for the kernels, or outside of them, if it needs a gradient."""
    if scale is None:
        return 1.0, None, None
    if not isinstance(scale, torch.Tensor):
        return float(scale), None, None
    if scale.requires_grad:
        return 1.0, None, scale
    return 1.0, scale.float().expand(*query.shape[:3], 1).squeeze(-1), None
