"""The kernels as operators of torch: shapes for tracing, gradients, and calls of the compiled library.

``linear_sum`` and ``linear_read`` are the two halves of bidirectional attention, ``linear_causal`` is the causal form
whole. All take queries and keys ``[B, H, N, d]`` before the feature map, whose parameters (float32, contiguous; see
`MapLayer`) go with them, and compute the features chunk by chunk, again in the backward pass. The operators of the
gradients have none themselves: a second derivative raises.
"""

from functools import partial

import torch
from torch import Tensor

from .library import Arguments, block_count, call


#: A copy of this package elsewhere, as the ``kernels`` library keeps, registers operators of its own.
NAMESPACE = str(__package__).replace(".", "_")

_operator = partial(torch.library.custom_op, mutates_args=(), device_types="cpu")
Parameters = tuple[Tensor | None, Tensor | None, Tensor | None]


@_operator(f"{NAMESPACE}::linear_sum")
def linear_sum(
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
) -> Tensor:
    """``sum_m phi(k_m) [v_m, 1]^T`` over real tokens, ``[B, H, F, D + 1]``, or ``[.., D]`` without `normalize`."""
    arguments = _arguments(key, value, (weight, bias, gate), activation, normalize, key_mask=key_mask)
    key, value = _unit_stride(key), _unit_stride(value)
    state = _state_like(key, value, weight, normalize)
    arguments.set_rows(key=key, value=value)
    arguments.set_pointers(state_out=state)
    _run("effattn_sum_forward", arguments)
    return state


@_operator(f"{NAMESPACE}::linear_sum_backward")
def linear_sum_backward(
    grad_state: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `key`, `value`, `weight`, `bias` and `gate` (empty where there is none) of `linear_sum`."""
    arguments = _arguments(key, value, (weight, bias, gate), activation, normalize, key_mask=key_mask)
    key, value, grad_state = _unit_stride(key), _unit_stride(value), grad_state.contiguous()
    grad_key, grad_value = _rows_like(key), _rows_like(value)
    slots = key.shape[0] * block_count(key.shape[2])
    grad_map = _slots_like((weight, bias, gate), slots)
    arguments.set_rows(key=key, value=value, grad_key=grad_key, grad_value=grad_value)
    arguments.set_pointers(grad_state_in=grad_state)
    arguments.set_map_gradients(**grad_map)
    _run("effattn_sum_backward", arguments)
    return grad_key, grad_value, *_sum_slots(grad_map)


@_operator(f"{NAMESPACE}::linear_read")
def linear_read(
    query: Tensor,
    state: Tensor,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
    eps: float,
    factor: float,
) -> Tensor:
    """``factor * scale_n * phi(q_n) S``, with `normalize` over ``phi(q_n) . z + eps``; ``[B, H, N, D]``."""
    arguments = _arguments(query, None, (weight, bias, gate), activation, normalize, eps=eps, factor=factor)
    query, state = _unit_stride(query), state.contiguous()
    output = _rows_like(query, state.shape[-1] - normalize)
    arguments.value_dim = output.shape[-1]
    arguments.set_rows(query=query, scale=scale, output=output)
    arguments.set_pointers(state_in=state)
    _run("effattn_read_forward", arguments)
    return output


@_operator(f"{NAMESPACE}::linear_read_backward")
def linear_read_backward(
    grad_output: Tensor,
    query: Tensor,
    state: Tensor,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
    eps: float,
    factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `query`, `state`, `weight`, `bias` and `gate` (empty where there is none) of `linear_read`."""
    arguments = _arguments(query, grad_output, (weight, bias, gate), activation, normalize, eps=eps, factor=factor)
    query, state, grad_output = _unit_stride(query), state.contiguous(), _unit_stride(grad_output)
    grad_query, grad_state = _rows_like(query), torch.empty_like(state)
    slots = query.shape[0] * block_count(query.shape[2])
    grad_map = _slots_like((weight, bias, gate), slots)
    arguments.set_rows(query=query, scale=scale, grad_output=grad_output, grad_query=grad_query)
    arguments.set_pointers(state_in=state, grad_state_out=grad_state)
    arguments.set_map_gradients(**grad_map)
    _run("effattn_read_backward", arguments)
    return grad_query, grad_state, *_sum_slots(grad_map)


@_operator(f"{NAMESPACE}::linear_causal")
def linear_causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    scale: Tensor | None,
    initial_state: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
    eps: float,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """`linear_read` of the state of the tokens up to each query, and the last state."""
    parameters = (weight, bias, gate)
    arguments = _arguments(key, value, parameters, activation, normalize, key_mask=key_mask, eps=eps, factor=factor)
    query, key, value = _unit_stride(query), _unit_stride(key), _unit_stride(value)
    initial_state = None if initial_state is None else initial_state.contiguous()
    output, state = _rows_like(query, value.shape[-1]), _state_like(key, value, weight, normalize)
    arguments.set_rows(query=query, key=key, value=value, scale=scale, output=output)
    arguments.set_pointers(state_in=initial_state, state_out=state)
    _run("effattn_causal_forward", arguments)
    return output, state


@_operator(f"{NAMESPACE}::linear_causal_backward")
def linear_causal_backward(
    grad_output: Tensor,
    grad_state: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    scale: Tensor | None,
    initial_state: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    activation: str,
    normalize: bool,
    eps: float,
    factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `query`, `key`, `value`, the initial state, `weight`, `bias`, `gate` of `linear_causal`."""
    parameters = (weight, bias, gate)
    arguments = _arguments(key, value, parameters, activation, normalize, key_mask=key_mask, eps=eps, factor=factor)
    query, key, value, grad_output = (_unit_stride(tensor) for tensor in (query, key, value, grad_output))
    grad_state = grad_state.contiguous()
    initial_state = None if initial_state is None else initial_state.contiguous()
    grad_query, grad_key, grad_value = _rows_like(query), _rows_like(key), _rows_like(value)
    grad_initial, grad_map = torch.empty_like(grad_state), _slots_like(parameters, key.shape[0])
    arguments.set_rows(query=query, key=key, value=value, scale=scale, grad_output=grad_output)
    arguments.set_rows(grad_query=grad_query, grad_key=grad_key, grad_value=grad_value)
    arguments.set_pointers(state_in=initial_state, grad_state_in=grad_state, grad_state_out=grad_initial)
    arguments.set_map_gradients(**grad_map)
    _run("effattn_causal_backward", arguments)
    return grad_query, grad_key, grad_value, grad_initial, *_sum_slots(grad_map)


def _arguments(rows, values, parameters, activation, normalize, *, key_mask=None, eps=0.0, factor=1.0) -> Arguments:
    """What all kernels are told: shapes, map and mask. `rows` are queries or keys, `values` as wide as the values."""
    batch, heads, length, dim = rows.shape
    weight, bias, gate = parameters
    arguments = Arguments(
        batch=batch, heads=heads, length=length, dim=dim, normalize=normalize, eps=eps, factor=factor
    )
    arguments.features = dim if weight is None else weight.shape[-1]
    arguments.value_dim = 0 if values is None else values.shape[-1]
    arguments.set_mask(key_mask)
    arguments.set_map(activation, weight=weight, bias=bias, gate=gate)
    return arguments


def _run(function: str, arguments: Arguments) -> None:
    if arguments.batch and arguments.heads:
        call(function, arguments)


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _rows_like(tensor: Tensor, columns: int | None = None) -> Tensor:
    """An empty tensor for rows of `columns`, with the heads side by side in memory where those of `tensor` are.

    Heads come as views of ``[B, N, H * d]``; in that order they are joined again, and their gradients taken, without
    a copy.
    """
    batch, heads, length, dim = tensor.shape
    columns = dim if columns is None else columns
    if tensor.stride(1) < tensor.stride(2):
        return tensor.new_empty(batch, length, heads, columns).transpose(1, 2)
    return tensor.new_empty(batch, heads, length, columns)


def _state_like(key: Tensor, value: Tensor, weight: Tensor | None, normalize: bool) -> Tensor:
    features = key.shape[-1] if weight is None else weight.shape[-1]
    shape = (key.shape[0], key.shape[1], features, value.shape[-1] + normalize)
    return key.new_empty(shape, dtype=torch.float32)


def _slots_like(parameters: Parameters, slots: int) -> dict[str, Tensor]:
    """Zeros ``[slots, *shape]`` for the gradients of every parameter; empty for those that are absent."""
    named = zip(("weight", "bias", "gate"), parameters, strict=True)
    return {name: torch.zeros(0) if p is None else p.new_zeros(slots, *p.shape) for name, p in named}


def _sum_slots(gradients: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias, gate = (gradient.sum(0) if gradient.dim() > 1 else gradient for gradient in gradients.values())
    return weight, bias, gate


def _parameters_like(*parameters: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(torch.empty(0) if p is None else torch.empty_like(p) for p in parameters)


@linear_sum.register_fake
def _(key, value, key_mask, weight, bias, gate, activation, normalize):
    return _state_like(key, value, weight, normalize)


@linear_sum_backward.register_fake
def _(grad_state, key, value, key_mask, weight, bias, gate, activation, normalize):
    return (_rows_like(key), _rows_like(value), *_parameters_like(weight, bias, gate))


@linear_read.register_fake
def _(query, state, scale, weight, bias, gate, activation, normalize, eps, factor):
    return _rows_like(query, state.shape[-1] - normalize)


@linear_read_backward.register_fake
def _(grad_output, query, state, scale, weight, bias, gate, activation, normalize, eps, factor):
    return (_rows_like(query), state.new_empty(state.shape), *_parameters_like(weight, bias, gate))


@linear_causal.register_fake
def _(query, key, value, key_mask, scale, initial_state, weight, bias, gate, activation, normalize, eps, factor):
    return _rows_like(query, value.shape[-1]), _state_like(key, value, weight, normalize)


@linear_causal_backward.register_fake
def _(grad_output, grad_state, query, key, value, key_mask, scale, initial_state, weight, bias, gate, *options):
    rows = (_rows_like(query), _rows_like(key), _rows_like(value))
    return (*rows, grad_state.new_empty(grad_state.shape), *_parameters_like(weight, bias, gate))


def _keep_sum(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _sum_gradients(ctx, grad_state):
    grads = linear_sum_backward(grad_state, *ctx.saved_tensors, *ctx.options)
    grad_key, grad_value, *grad_map = grads
    return (grad_key, grad_value, None, *_present(grad_map, ctx.saved_tensors[3:]), None, None)


def _keep_read(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _read_gradients(ctx, grad_output):
    grads = linear_read_backward(grad_output, *ctx.saved_tensors, *ctx.options)
    grad_query, grad_state, *grad_map = grads
    return (grad_query, grad_state, None, *_present(grad_map, ctx.saved_tensors[3:]), None, None, None, None)


def _keep_causal(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:9])
    ctx.options = inputs[9:]


def _causal_gradients(ctx, grad_output, grad_state):
    grads = linear_causal_backward(grad_output, grad_state, *ctx.saved_tensors, *ctx.options)
    grad_query, grad_key, grad_value, grad_initial, *grad_map = grads
    grad_initial = None if ctx.saved_tensors[5] is None else grad_initial
    grad_map = _present(grad_map, ctx.saved_tensors[6:])
    return (grad_query, grad_key, grad_value, None, None, grad_initial, *grad_map, None, None, None, None)


def _present(gradients, parameters):
    return [None if p is None else gradient for gradient, p in zip(gradients, parameters, strict=True)]


linear_sum.register_autograd(_sum_gradients, setup_context=_keep_sum)
linear_read.register_autograd(_read_gradients, setup_context=_keep_read)
linear_causal.register_autograd(_causal_gradients, setup_context=_keep_causal)
