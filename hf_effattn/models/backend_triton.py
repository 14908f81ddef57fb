"""The ``triton`` backend of linear attention, and its gradients.

Bidirectional attention is a sum over the keys (`_Sum`) that every query then reads (`_Read`). The causal form
(`_Causal`) is one walk over the tokens. The backward passes save the inputs, and with normalisation the output and its
denominators. The operators are in `triton_operators`, the kernels in `triton_kernels`.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base_transforms import refuse_second_derivatives
from .ops_linear import TRITON_WIDTH
from .triton_operators import read, read_gradients, step, sum_gradients, total_sums, walk, walk_gradients


DTYPES = (torch.float32, torch.float16, torch.bfloat16)

SECOND_DERIVATIVES = 'use attention_backend="torch"'


def triton_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot serve `device` and `dtype`, or None; ROCm devices are ``"cuda"`` to torch."""
    try:
        import triton
    except ImportError:
        return "Triton is not installed; pip install triton"
    if not hasattr(triton, "knobs"):
        return f"Triton {triton.__version__} is too old; pip install --upgrade 'triton>=3.4'"
    if device.type != "cuda" and not (device.type == "cpu" and triton.knobs.runtime.interpret):
        return "it runs on CUDA and ROCm devices"
    if dtype not in DTYPES:
        return f"it computes in float32, float16 and bfloat16, not {dtype}"
    return None


def triton_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_mask: Tensor | None = None,
    causal: bool = False,
    normalize: bool = True,
    scale: float | Tensor | None = None,
    eps: float = 1e-6,
    initial_state: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The ``triton`` backend of `linear_attention`: ``out_n = scale * q_n S / (q_n . z + eps)``.

    Sums, states and denominators are float32. Products of bfloat16 are made of bfloat16 operands, to which states and
    weights of pairs are rounded first; those of float16 in TF32, whose range is that of float32; those of float32 in
    three products of TF32, which keep float32's accuracy (on ROCm in float32).

    Args:
        query, key: ``[B, H, N, F]``, already mapped, in float32, float16 or bfloat16, with any strides.
        value: ``[B, H, N, D]``.
        key_mask, causal, normalize, scale, eps, initial_state, dropout_p: see `linear_attention`.

    Returns:
        The output ``[B, H, N, D]`` in the query's dtype (stored as ``[B, N, H, D]``, so that joining the heads copies
        nothing), and the last state, float32: ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``.

    Raises:
        ValueError: `F` or `D` above 256, or a float64 query.

    Complexity: O(N F D) time, O(N (F + D)) memory.
    """
    _check(query, value)
    key, value = (tensor if tensor.dtype in DTYPES else tensor.to(query.dtype) for tensor in (key, value))
    query, key, value = _dense(query), _dense(key), _dense(value)
    rows, outside = _divide_scale(scale, query)
    dtype = query.dtype if outside is None else torch.float32
    initial = None if initial_state is None else initial_state.float()
    if causal:
        output, state = _Causal.apply(query, key, value, initial, key_mask, rows, normalize, eps, dtype)
    else:
        state = _Sum.apply(key, value, key_mask, normalize)
        refuse_second_derivatives(state, SECOND_DERIVATIVES)
        state = state if initial is None else state + initial
        memory = torch.dropout(state, dropout_p, True) if dropout_p > 0 else state
        output = _Read.apply(query, memory, rows, normalize, eps, dtype)
    refuse_second_derivatives(output, SECOND_DERIVATIVES)
    if outside is not None:
        output = (output * outside).to(query.dtype)
    return output, state


def triton_linear_attention_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    key_mask: Tensor | None = None,
    normalize: bool = True,
    scale: float | Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """`linear_attention_step` of the ``triton`` backend: one launch, unless a gradient is asked for.

    Raises:
        ValueError: `F` or `D` above 256, or a float64 query.

    Complexity: O(F D).
    """
    tensors = (query, key, value, state, scale)
    if torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        return triton_linear_attention(
            query,
            key,
            value,
            key_mask=key_mask,
            causal=True,
            normalize=normalize,
            scale=scale,
            eps=eps,
            initial_state=state,
        )
    _check(query, value)
    rows, outside = _divide_scale(scale, query)
    dtype = query.dtype if outside is None else torch.float32
    query, key, value, state = _dense(query), _dense(key), _dense(value), state.float().contiguous()
    output, state = step(query, key, value, state, key_mask, rows, normalize, eps, dtype)
    return (output if outside is None else (output * outside).to(query.dtype)), state


def _check(query: Tensor, value: Tensor) -> None:
    if query.dtype not in DTYPES:
        raise ValueError(
            f"the triton backend computes in float32, float16 and bfloat16, got {query.dtype}; "
            'use attention_backend="torch"'
        )
    if max(query.shape[-1], value.shape[-1]) > TRITON_WIDTH:
        raise ValueError(
            f"the triton backend takes features and values of width up to {TRITON_WIDTH}, got {query.shape[-1]} and "
            f'{value.shape[-1]}; use attention_backend="torch"'
        )


def _divide_scale(scale: float | Tensor | None, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """A scale as rows ``[B, H, N]`` for the kernels, or, if it needs a gradient, as it is, to be applied outside."""
    if scale is None:
        return None, None
    if not isinstance(scale, Tensor):
        scale = torch.full((1,), scale, dtype=torch.float32, device=query.device)
    if scale.device != query.device or (scale.requires_grad and torch.is_grad_enabled()):
        return None, scale
    return scale.expand(*query.shape[:3], 1).squeeze(-1), None


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Sum(torch.autograd.Function):
    """``S = sum_m k_m v_m^T`` over the real tokens and, with `normalize`, ``z = sum_m k_m`` as its last column."""

    @staticmethod
    def forward(ctx, key, value, mask, normalize):
        ctx.save_for_backward(key, value, mask)
        ctx.normalize = normalize
        return total_sums(key, value, mask, normalize)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_state):
        return *sum_gradients(of_state.contiguous(), *ctx.saved_tensors, ctx.normalize), None, None


class _Read(torch.autograd.Function):
    """``scale_n q_n S``, with `normalize` divided by ``q_n . z + eps``, of one state for all queries."""

    @staticmethod
    def forward(ctx, query, state, scale, normalize, eps, dtype):
        state = state.contiguous()
        output, denominator = read(query, state, scale, normalize, eps, dtype)
        ctx.save_for_backward(query, state, scale, *((output, denominator) if normalize else (None, None)))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output):
        return *read_gradients(_dense(of_output), *ctx.saved_tensors), None, None, None, None


class _Causal(torch.autograd.Function):
    """Causal attention; gives the outputs and the last state."""

    @staticmethod
    def forward(ctx, query, key, value, initial, mask, scale, normalize, eps, dtype):
        initial = None if initial is None else initial.contiguous()
        output, denominator, state = walk(query, key, value, mask, scale, initial, normalize, eps, dtype)
        saved = (output, denominator) if normalize else (None, None)
        ctx.save_for_backward(query, key, value, mask, scale, initial, *saved)
        return output, state

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output, of_state):
        *gradients, of_initial = walk_gradients(_dense(of_output), of_state.contiguous(), *ctx.saved_tensors)
        of_initial = of_initial if ctx.needs_input_grad[3] else None
        return *gradients, of_initial, None, None, None, None, None
