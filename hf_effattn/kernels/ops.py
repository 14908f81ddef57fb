"""Linear attention on the compiled kernels as an operator of torch: shapes for tracing, gradients, and the calls.

The operator takes queries and keys ``[B, H, N, d]`` before the feature map, whose parameters (float32, contiguous; see
`MapLayer` in the models) go with them, and computes the features chunk by chunk, again in the backward pass. The
operator of the gradients has no derivative itself: a second derivative raises an error that names the remedy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from .library import Arguments, block_count, run_kernel


#: A copy of this package elsewhere, as the ``kernels`` library keeps, registers operators of its own.
NAMESPACE = str(__package__).replace(".", "_")

#: How many arguments of the operator are tensors; the others are options.
TENSORS = 10


class Inputs(NamedTuple):
    """The arguments of the operator; tensors that are None are absent.

    Attributes:
        query, key: ``[B, H, N, d]``.
        value: ``[B, H, N, D]``.
        key_mask: ``[B, N]``, bool.
        scale: ``[B, H, N]``, float32.
        initial_state: ``[B, H, F, D]``, with `normalize` ``[B, H, F, D + 1]``, float32.
        keep: dropout, shaped like a state: the state that bidirectional queries read is multiplied by it.
        weight, bias, gate: parameters of the feature map.
        activation: that of the map, a name of `library.ACTIVATIONS`.
        causal, normalize: see `linear_attention` in the models.
        eps: added to the denominator.
        factor: a number that the output is multiplied by, beside `scale`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    key_mask: Tensor | None
    scale: Tensor | None
    initial_state: Tensor | None
    keep: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    gate: Tensor | None
    activation: str
    causal: bool
    normalize: bool
    eps: float
    factor: float


#: The schema of `Inputs`, from its annotations.
_SCHEMA_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", str: "str", bool: "bool", float: "float"}
_SCHEMA = ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in get_type_hints(Inputs).items())


def _operator(name: str, arguments: str, results: int) -> Callable[..., Any]:
    """Decorator that makes an operator of torch of a function that takes `arguments` and returns `results` tensors."""
    schema = f"({arguments}) -> ({', '.join(['Tensor'] * results)})"
    return torch.library.custom_op(f"{NAMESPACE}::{name}", mutates_args=(), device_types="cpu", schema=schema)


@_operator("linear_attention", _SCHEMA, 2)
def linear_attention(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The output ``[B, H, N, D]`` and the last state, of the arguments that `Inputs` describes."""
    inputs = _readable(Inputs(*arguments))
    output, state = _rows_like(inputs.query, inputs.value.shape[-1]), _state_like(inputs)
    struct = _struct(inputs)
    struct.set_rows(output=output)
    struct.set_pointers(state_out=state)
    if inputs.causal:
        struct.set_pointers(state_in=inputs.initial_state)
        _run("effattn_causal_forward", struct)
        return output, state
    _run("effattn_sum_forward", struct)
    if inputs.initial_state is not None:
        state += inputs.initial_state
    kept = state if inputs.keep is None else state * inputs.keep
    struct.set_pointers(state_in=kept)
    _run("effattn_read_forward", struct)
    return output, state


@_operator("linear_attention_backward", f"Tensor grad_output, Tensor grad_state, Tensor state, {_SCHEMA}", 7)
def linear_attention_backward(
    grad_output: Tensor, grad_state: Tensor, state: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, initial state, weight, bias and gate; the last three empty if absent."""
    inputs = _readable(Inputs(*arguments))
    grad_output, grad_state = _unit_stride(grad_output), grad_state.contiguous()
    grad_query, grad_key, grad_value = (_rows_like(rows) for rows in inputs[:3])
    slots = inputs.query.shape[0] * (1 if inputs.causal else block_count(inputs.query.shape[2]))
    grad_map = {name: _slots_like(getattr(inputs, name), slots) for name in ("weight", "bias", "gate")}
    struct = _struct(inputs)
    struct.set_rows(grad_output=grad_output, grad_query=grad_query, grad_key=grad_key, grad_value=grad_value)
    struct.set_map_gradients(**grad_map)
    grad_initial = torch.empty_like(grad_state)
    struct.set_pointers(grad_state_out=grad_initial)
    if inputs.causal:
        struct.set_pointers(state_in=inputs.initial_state, grad_state_in=grad_state)
        _run("effattn_causal_backward", struct)
    else:
        kept = state.contiguous() if inputs.keep is None else state * inputs.keep
        struct.set_pointers(state_in=kept)
        _run("effattn_read_backward", struct)
        grad_initial = grad_initial if inputs.keep is None else grad_initial * inputs.keep
        grad_initial += grad_state
        struct.set_pointers(grad_state_in=grad_initial)
        _run("effattn_sum_backward", struct)
    grad_weight, grad_bias, grad_gate = (gradient.sum(0) for gradient in grad_map.values())
    return grad_query, grad_key, grad_value, grad_initial, grad_weight, grad_bias, grad_gate


def _readable(inputs: Inputs) -> Inputs:
    """The inputs with strides that the kernels can walk by."""
    query, key, value = (_unit_stride(rows) for rows in inputs[:3])
    state = None if inputs.initial_state is None else inputs.initial_state.contiguous()
    return inputs._replace(query=query, key=key, value=value, initial_state=state)


def _struct(inputs: Inputs) -> Arguments:
    """The struct of the inputs, which every kernel reads."""
    batch, heads, length, dim = inputs.query.shape
    struct = Arguments(batch=batch, heads=heads, length=length, dim=dim)
    struct.features = _features(inputs)
    struct.value_dim = inputs.value.shape[-1]
    struct.normalize, struct.eps, struct.factor = inputs.normalize, inputs.eps, inputs.factor
    struct.set_rows(query=inputs.query, key=inputs.key, value=inputs.value, scale=inputs.scale)
    struct.set_mask(inputs.key_mask)
    struct.set_map(inputs.activation, weight=inputs.weight, bias=inputs.bias, gate=inputs.gate)
    return struct


def _run(function: str, struct: Arguments) -> None:
    if struct.batch and struct.heads:
        run_kernel(function, struct)


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


def _features(inputs: Inputs) -> int:
    return inputs.query.shape[-1] if inputs.weight is None else inputs.weight.shape[-1]


def _state_like(inputs: Inputs) -> Tensor:
    shape = (*inputs.query.shape[:2], _features(inputs), inputs.value.shape[-1] + inputs.normalize)
    return inputs.query.new_empty(shape, dtype=torch.float32)


def _slots_like(parameter: Tensor | None, slots: int) -> Tensor:
    """Zeros ``[slots, *shape]``, which the tasks add their gradients to; without entries if there is no parameter."""
    return torch.zeros(slots, 0) if parameter is None else parameter.new_zeros(slots, *parameter.shape)


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs = Inputs(*arguments)
    return _rows_like(inputs.query, inputs.value.shape[-1]), _state_like(inputs)


def _shapes_of_gradients(
    grad_output: Tensor, grad_state: Tensor, state: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    inputs = Inputs(*arguments)
    parameters = (inputs.weight, inputs.bias, inputs.gate)
    of_map = (torch.empty(0) if p is None else torch.empty_like(p) for p in parameters)
    return (*(_rows_like(rows) for rows in inputs[:3]), grad_state.new_empty(grad_state.shape), *of_map)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:TENSORS])
    ctx.options = inputs[TENSORS:]


def _gradients(ctx: Any, grad_output: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
    state, *tensors = ctx.saved_tensors
    found = linear_attention_backward(grad_output, grad_state, state, *tensors, *ctx.options)
    names = ("query", "key", "value", "initial_state", "weight", "bias", "gate")
    gradients = dict(zip(names, found, strict=True))
    present = zip(Inputs._fields, tensors, strict=False)
    return *(None if t is None else gradients.get(name) for name, t in present), *(None for _ in ctx.options)


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError(
        'the cpu kernels have no second derivatives (gradient penalties, Hessians): use attention_backend="torch"'
    )


linear_attention.register_fake(_shapes)
linear_attention_backward.register_fake(_shapes_of_gradients)
linear_attention.register_autograd(_gradients, setup_context=_keep_for_backward)
linear_attention_backward.register_autograd(_no_second_derivative)
