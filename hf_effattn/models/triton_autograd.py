"""Linear attention on the Triton kernels, with its gradients.

Bidirectional attention is a sum over the keys (`_Sum`) that every query then reads (`_Read`). The causal form
(`_Causal`) is one pass over the tokens. For the backward pass they keep the inputs, and with normalisation the output
and its denominators. The operators are in `triton_operators`, the kernels in `triton_kernels`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base_call import LinearAttentionCall
from .base_operators import TRITON_DTYPES, TRITON_WIDTH, unit_stride
from .base_transforms import refuse_second_derivatives
from .triton_operators import read, read_gradients, step, sum_gradients, total_sums, walk, walk_gradients


SECOND_DERIVATIVES = 'use attention_backend="torch"'


def attend(query: Tensor, key: Tensor, value: Tensor, call: LinearAttentionCall) -> tuple[Tensor, Tensor]:
    """The ``triton`` backend of `linear_attention`: ``out_n = scale * q_n S / (q_n . z + eps)``.

    Sums, states and denominators are float32. Products of bfloat16 are made of bfloat16 operands, to which states and
    weights of pairs are rounded first; those of float16 in TF32, whose range is that of float32; those of float32 in
    three products of TF32, which keep float32's accuracy (on ROCm in float32).

    Args:
        query, key: ``[B, H, N, F]``, already mapped, in float32, float16 or bfloat16, with any strides.
        value: ``[B, H, N, D]``.
        call: see `linear_attention`.

    Returns:
        The output ``[B, H, N, D]`` in the query's dtype (stored as ``[B, N, H, D]``, so that joining the heads copies
        nothing), and the last state, float32: ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``.

    Raises:
        ValueError: `F` or `D` above 256, or a float64 query.

    Complexity: O(N F D) time, O(N (F + D)) memory.
    """
    query, key, value = _prepare(query, key, value)
    factors, outside = _scale_factors(query, call)
    dtype = query.dtype if outside is None else torch.float32
    initial = None if call.initial_state is None else call.initial_state.float()
    if call.causal:
        options = (call.key_mask, factors, call.normalize, call.eps, dtype)
        output, state = _attend_causal(query, key, value, initial, *options)
    else:
        state = _sum_keys(key, value, call.key_mask, call.normalize)
        refuse_second_derivatives(state, SECOND_DERIVATIVES)
        state = state if initial is None else state + initial
        kept = torch.dropout(state, call.dropout_p, True) if call.dropout_p > 0 else state
        output = _read_state(query, kept, factors, call.normalize, call.eps, dtype)
    refuse_second_derivatives(output, SECOND_DERIVATIVES)
    if outside is not None:
        output = (output * outside).to(query.dtype)
    return output, state


def attend_step(query: Tensor, key: Tensor, value: Tensor, call: LinearAttentionCall) -> tuple[Tensor, Tensor]:
    """One token after those of ``call.initial_state``: a single launch, unless a gradient is needed.

    Raises:
        ValueError: `F` or `D` above 256, or a float64 query.

    Complexity: O(F D).
    """
    state = call.initial_state
    tensors = (query, key, value, state, call.scale)
    learns = torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in tensors)
    if state is None or learns:
        return attend(query, key, value, call)
    query, key, value = _prepare(query, key, value)
    factors, outside = _scale_factors(query, call)
    dtype = query.dtype if outside is None else torch.float32
    state = state.float().contiguous()
    output, state = step(query, key, value, state, call.key_mask, factors, call.normalize, call.eps, dtype)
    return (output if outside is None else (output * outside).to(query.dtype)), state


def _prepare(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in dtypes and strides that the kernels take; ValueError if they take none like these."""
    if query.dtype not in TRITON_DTYPES:
        raise ValueError(
            f"the triton backend computes in float32, float16 and bfloat16, got {query.dtype}; "
            'use attention_backend="torch"'
        )
    if max(query.shape[-1], value.shape[-1]) > TRITON_WIDTH:
        raise ValueError(
            f"the triton backend takes features and values of width up to {TRITON_WIDTH}, got {query.shape[-1]} and "
            f'{value.shape[-1]}; use attention_backend="torch"'
        )
    key, value = (tensor if tensor.dtype in TRITON_DTYPES else tensor.to(query.dtype) for tensor in (key, value))
    return unit_stride(query), unit_stride(key), unit_stride(value)


def _scale_factors(query: Tensor, call: LinearAttentionCall) -> tuple[Tensor | None, Tensor | None]:
    """The factor of each token ``[B, H, N]`` for the kernels, and the one for the finished output."""
    number, factors, outside = call.scale_parts(query)
    if number != 1.0:
        factors = torch.full((1,), number, dtype=torch.float32, device=query.device).expand(query.shape[:3])
    return factors, outside


class _Sum(torch.autograd.Function):
    """``S = sum_m k_m v_m^T`` over the real tokens and, with `normalize`, ``z = sum_m k_m`` as its last column."""

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, mask: Tensor | None, normalize: bool) -> Tensor:
        ctx.save_for_backward(key, value, mask)
        ctx.normalize = normalize
        state: Tensor = total_sums(key, value, mask, normalize)
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_state: Tensor) -> tuple[Tensor | None, ...]:
        return *sum_gradients(of_state.contiguous(), *ctx.saved_tensors, ctx.normalize), None, None


class _Read(torch.autograd.Function):
    """``scale_n q_n S``, with `normalize` divided by ``q_n . z + eps``, of one state for all queries."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        state: Tensor,
        scale: Tensor | None,
        normalize: bool,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        state = state.contiguous()
        output: Tensor
        output, denominator = read(query, state, scale, normalize, eps, dtype)
        ctx.save_for_backward(query, state, scale, *((output, denominator) if normalize else (None, None)))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        return *read_gradients(unit_stride(of_output), *ctx.saved_tensors), None, None, None, None


class _Causal(torch.autograd.Function):
    """Causal attention; returns the outputs and the last state."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        initial: Tensor | None,
        mask: Tensor | None,
        scale: Tensor | None,
        normalize: bool,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        initial = None if initial is None else initial.contiguous()
        output, denominator, state = walk(query, key, value, mask, scale, initial, normalize, eps, dtype)
        saved = (output, denominator) if normalize else (None, None)
        ctx.save_for_backward(query, key, value, mask, scale, initial, *saved)
        return output, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor, of_state: Tensor) -> tuple[Tensor | None, ...]:
        *gradients, of_initial = walk_gradients(unit_stride(of_output), of_state.contiguous(), *ctx.saved_tensors)
        of_initial = of_initial if ctx.needs_input_grad[3] else None
        return *gradients, of_initial, None, None, None, None, None


_sum_keys: Callable[..., Tensor] = _Sum.apply
_read_state: Callable[..., Tensor] = _Read.apply
_attend_causal: Callable[..., tuple[Tensor, Tensor]] = _Causal.apply
