"""The ``cpu`` backend of `linear_attention`: the compiled operators, put together."""

from typing import Any, Protocol

import torch
from torch.autograd import forward_ad

from .library import DTYPES
from .ops import linear_attention as operator


class FusedMap(Protocol):
    """What is read of a `hf_effattn.models.base_map_layer.MapLayer`; this package knows nothing of the models."""

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

    Raises:
        ValueError: a tensor that is not where the queries are.
        RuntimeError: a transform of torch.func, or a forward-mode derivative: they would leave attention out.
    """
    _check(query, key, value, key_mask, scale, initial_state, feature_map)
    dtype = query.dtype
    key, value = (tensor if tensor.dtype in DTYPES else tensor.to(query.dtype) for tensor in (key, value))
    state = None if initial_state is None else initial_state.float()
    factor, rows, outside = _divide_scale(scale, query)
    if outside is not None:
        # The gradient of a scale is a sum over many products, of which none may have been rounded to half precision.
        query = query.float()
    parameters = _map_parameters(feature_map)
    keep = None
    if dropout_p > 0:
        # Dropout acts on the entries of the state, and is not defined with a denominator.
        features = query.shape[-1] if parameters[0] is None else parameters[0].shape[-1]
        ones = torch.ones(*query.shape[:2], features, value.shape[-1], device=query.device)
        keep = torch.dropout(ones, dropout_p, True)
    tensors = (query, key, value, key_mask, rows, state, keep)
    output, state = operator(*tensors, *parameters, causal, normalize, eps, factor)
    return output if outside is None else (output * outside.float()).to(dtype), state


def _check(query: torch.Tensor, *others: Any) -> None:
    """Refuse what torch would answer with the shapes of the result, or with a derivative without it."""
    *tensors, feature_map = others
    if feature_map is not None:
        tensors += [feature_map.weight, feature_map.bias, feature_map.gate]
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.device != query.device:
            raise ValueError(f"the cpu kernels got tensors on {query.device} and on {tensor.device}; load all of them")
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise RuntimeError(
            "the cpu kernels have no forward-mode derivatives, and no form for torch.func's transforms (grad, vmap, "
            'jvp): use attention_backend="auto" or "torch"'
        )


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
    if scale.requires_grad and torch.is_grad_enabled():
        return 1.0, None, scale
    return 1.0, scale.float().expand(*query.shape[:3], 1).squeeze(-1), None
