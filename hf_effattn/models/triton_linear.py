"""The ``triton`` backend of linear attention: what the kernels are launched with, and the gradients.

Bidirectional attention is a sum over the keys (`_Sum`) that every query then reads (`_Read`). The causal form
(`_Causal`) keeps the sums before each chunk of `CHUNK_LENGTH` tokens, so that all chunks are worked on at once. All
sums are reduced in a fixed order, without atomics: equal inputs give equal bits. The backward passes save the inputs
only, and compute the sums again.

States are packed here as the kernels take them: ``[B, H, F * D]``, or ``[B, H, F * D + F]`` with `z` at the end,
which keeps the rows of ``S`` aligned.
"""

import contextlib
import re
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops_linear import TRITON_WIDTH


#: Tokens of one chunk of the causal form, and of one block of queries.
CHUNK_LENGTH = 64

#: Programs that the sum over the keys is split into where the batch alone gives fewer, and the fewest keys of each.
SUM_PROGRAMS, MIN_PART_LENGTH = 512, 256

#: The entries of the states, and the chunks, that one step of the running sum takes.
SCAN_ENTRIES, SCAN_SLOTS = 128, 16

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# The operators are named after this module: a checkpoint's copy of it has operators of its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


def triton_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot serve `device` and `dtype`, or None; ROCm devices are ``"cuda"`` to torch."""
    try:
        import triton
    except ImportError:
        return "Triton is not installed; pip install triton"
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

    Sums, states and denominators are float32. Float32 operands are multiplied in full float32; half-precision
    operands by one another as they are, and by sums in TF32, whose range is that of float32.

    Args:
        query, key: ``[B, H, N, F]``, already mapped, in float32, float16 or bfloat16, with any strides.
        value: ``[B, H, N, D]``.
        key_mask, causal, normalize, scale, eps, initial_state, dropout_p: see `linear_attention`.

    Returns:
        The output ``[B, H, N, D]`` in the query's dtype (stored as ``[B, N, H, D]``, so that joining the heads copies
        nothing), and the last state, float32: ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``.

    Raises:
        ValueError: `F` or `D` above 256, or a float64 query.

    Complexity: O(N F D) time; O(N (F + D)) memory bidirectional, O(N (F + D + F D / 64)) causal.
    """
    _check(query, value)
    key, value = (tensor if tensor.dtype in DTYPES else tensor.to(query.dtype) for tensor in (key, value))
    query, key, value = _dense(query), _dense(key), _dense(value)
    rows, outside = _divide_scale(scale, query)
    dtype = query.dtype if outside is None else torch.float32
    initial = None if initial_state is None else _pack(initial_state.float(), normalize)
    if causal:
        output, state = _Causal.apply(query, key, value, initial, key_mask, rows, normalize, eps, dtype)
    else:
        state = _Sum.apply(key, value, key_mask, normalize)
        state = state if initial is None else state + initial
        memory = torch.dropout(state, dropout_p, True) if dropout_p > 0 else state
        output = _Read.apply(query, memory, rows, value.shape[-1], normalize, eps, dtype)
    if outside is not None:
        output = (output * outside).to(query.dtype)
    return output, _unpack(state, query.shape[-1], normalize)


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


def _pack(state: Tensor, column: bool) -> Tensor:
    return torch.cat([state[..., :-1].flatten(-2), state[..., -1]], dim=-1) if column else state.flatten(-2)


def _unpack(packed: Tensor, features: int, column: bool) -> Tensor:
    if not column:
        return packed.unflatten(-1, (features, -1))
    matrix, z = packed[..., :-features], packed[..., -features:]
    return torch.cat([matrix.unflatten(-1, (features, -1)), z.unsqueeze(-1)], dim=-1)


class _Sum(torch.autograd.Function):
    """``S = sum_m k_m v_m^T`` over the real tokens, and with `column` ``z = sum_m k_m``: packed."""

    @staticmethod
    def forward(ctx, key, value, mask, column):
        ctx.save_for_backward(key, value, mask)
        ctx.column = column
        return total_sums(key, value, mask, None, None, column)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_state):
        key, value, mask = ctx.saved_tensors
        of_key = input_gradient(key, value, None, None, of_state, mask, None, None, False, ctx.column, True)
        of_value = input_gradient(value, key, None, None, of_state, mask, None, None, False, False, False)
        return of_key, of_value, None, None


class _Read(torch.autograd.Function):
    """``scale_n q_n S``, with `normalize` divided by ``q_n . z + eps``, of one state for all queries."""

    @staticmethod
    def forward(ctx, query, state, scale, dim, normalize, eps, dtype):
        ctx.save_for_backward(query, state, scale)
        ctx.normalize, ctx.eps = normalize, eps
        return attend(query, None, None, state, None, scale, dim, normalize, eps, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output):
        query, state, scale = ctx.saved_tensors
        of_output, normalize = _dense(of_output), ctx.normalize
        factor, shift = scale, None
        if normalize:
            factor, shift = query_weights(query, None, None, state, None, scale, of_output, ctx.eps)
        weights = (None, factor, shift)
        of_query = input_gradient(query, of_output, None, None, state, *weights, True, normalize, True)
        of_state = total_sums(query, of_output, *weights, normalize)
        return of_query, of_state, None, None, None, None, None


class _Causal(torch.autograd.Function):
    """Causal attention by chunks; gives the outputs and the last state."""

    @staticmethod
    def forward(ctx, query, key, value, initial, mask, scale, normalize, eps, dtype):
        ctx.save_for_backward(query, key, value, initial, mask, scale)
        ctx.normalize, ctx.eps = normalize, eps
        states = running_sums(key, value, mask, None, None, initial, normalize, False)
        output = attend(query, key, value, states, mask, scale, value.shape[-1], normalize, eps, dtype)
        return output, states[:, :, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output, of_state):
        query, key, value, initial, mask, scale = ctx.saved_tensors
        of_output, normalize = _dense(of_output), ctx.normalize
        states = running_sums(key, value, mask, None, None, initial, normalize, False)
        factor, shift = scale, None
        if normalize:
            factor, shift = query_weights(query, key, value, states, mask, scale, of_output, ctx.eps)
        weights = (mask, factor, shift)
        of_query = input_gradient(query, of_output, value, key, states, *weights, True, normalize, True)
        del states
        # What the queries from each chunk on, and the last state, ask of the keys and values before them.
        states = running_sums(query, of_output, None, factor, shift, of_state, normalize, True)
        later = states[:, :, 1:]
        of_key = input_gradient(key, value, of_output, query, later, *weights, False, normalize, True)
        of_value = input_gradient(value, key, query, of_output, later, mask, factor, None, False, False, False)
        of_initial = None if initial is None else states[:, :, 0].clone()
        return of_query, of_key, of_value, of_initial, None, None, None, None, None


# The operators: each one is opaque to torch.compile and knows its output's shape.


@torch.library.custom_op(f"{_NAMESPACE}::total_sums", mutates_args=())
def total_sums(
    left: Tensor, right: Tensor, mask: Tensor | None, factor: Tensor | None, shift: Tensor | None, column: bool
) -> Tensor:
    """``sum_n factor_n left_n right_n^T`` and, with `column`, ``sum_n shift_n left_n``, packed ``[B, H, size]``.

    `factor` and `shift` are ``[B, H, N]`` with equal strides, 1 where None; masked tokens are left out. O(N F D).
    """
    batch, heads, length, features = left.shape
    tiles = _count(features, _block(features)) * _count(right.shape[-1], _block(right.shape[-1]))
    parts = min(_count(SUM_PROGRAMS, max(1, batch * heads * tiles)), _count(length, MIN_PART_LENGTH))
    part_length = _count(_count(length, parts), CHUNK_LENGTH) * CHUNK_LENGTH
    parts = _count(length, part_length)
    sums = left.new_empty(batch, heads, parts, _size(left, right, column), dtype=torch.float32)
    _launch_sum(left, right, mask, factor, shift, sums, column, part_length)
    return sums.sum(2)


@total_sums.register_fake
def _(left, right, mask, factor, shift, column):
    return left.new_empty(*left.shape[:2], _size(left, right, column), dtype=torch.float32)


@torch.library.custom_op(f"{_NAMESPACE}::running_sums", mutates_args=())
def running_sums(
    left: Tensor,
    right: Tensor,
    mask: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    edge: Tensor | None,
    column: bool,
    reverse: bool,
) -> Tensor:
    """`total_sums` of the chunks before each chunk, and of all chunks: ``[B, H, chunks + 1, size]``.

    With `reverse`, of all chunks, and of those after each chunk. `edge` (packed) is added to all of them.
    """
    batch, heads, length, _ = left.shape
    chunks = _count(length, CHUNK_LENGTH)
    size = _size(left, right, column)
    states = left.new_empty(batch, heads, chunks + 1, size, dtype=torch.float32)
    first, parts = (-1, states[:, :, :-1]) if reverse else (0, states[:, :, 1:])
    states[:, :, first] = 0 if edge is None else edge
    _launch_sum(left, right, mask, factor, shift, parts, column, CHUNK_LENGTH)
    meta = {"SIZE": size, "BLOCK": SCAN_ENTRIES, "SLOTS": SCAN_SLOTS, "REVERSE": reverse}
    programs = batch * heads * _count(size, SCAN_ENTRIES)
    _launch("scan", programs, left.device, states=states, slots=chunks + 1, **meta)
    return states


@running_sums.register_fake
def _(left, right, mask, factor, shift, edge, column, reverse):
    chunks = _count(left.shape[2], CHUNK_LENGTH)
    return left.new_empty(*left.shape[:2], chunks + 1, _size(left, right, column), dtype=torch.float32)


@torch.library.custom_op(f"{_NAMESPACE}::attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    states: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    dim: int,
    normalize: bool,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """The output ``[B, H, N, dim]``: of `running_sums`, with key and value, or of one state for all queries."""
    output = _rows_like(query, dim, dtype)
    _launch_attend(query, key, value, states, mask, scale, dim, normalize, eps, output)
    return output


@attend.register_fake
def _(query, key, value, states, mask, scale, dim, normalize, eps, dtype):
    return _rows_like(query, dim, dtype)


@torch.library.custom_op(f"{_NAMESPACE}::query_weights", mutates_args=())
def query_weights(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    states: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    of_output: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """``scale / den`` and the gradient of ``den = q . z + eps``, for every query of a normalised `attend`."""
    factor, shift = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    dim = of_output.shape[-1]
    _launch_attend(query, key, value, states, mask, scale, dim, True, eps, of_output, factor, shift)
    return factor, shift


@query_weights.register_fake
def _(query, key, value, states, mask, scale, of_output, eps):
    factor, shift = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    return factor, shift


@torch.library.custom_op(f"{_NAMESPACE}::input_gradient", mutates_args=())
def input_gradient(
    like: Tensor,
    row_side: Tensor,
    pair_side: Tensor | None,
    summed: Tensor | None,
    states: Tensor,
    mask: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    of_queries: bool,
    column: bool,
    transposed: bool,
) -> Tensor:
    """The gradient of `like`: queries, or else keys or values. The equations are at `gradient_kernel`."""
    inner, outer = row_side.shape[-1], like.shape[-1]
    gradient = _rows_like(like, outer, like.dtype)
    state_in, state_out = (1, inner) if transposed else (outer, 1)
    chunks = _count(like.shape[2], CHUNK_LENGTH)
    _launch(
        "gradient",
        like.shape[0] * like.shape[1] * chunks * _count(outer, _block(outer)),
        like.device,
        **_rows(row_side=row_side, pair_side=pair_side, summed=summed, factor=factor, gradient=gradient),
        **_states(states),
        **_mask(mask),
        shift=shift,
        state_in=state_in,
        state_out=state_out,
        **{"heads": like.shape[1], "length": like.shape[2], "chunks": chunks},
        INNER=inner,
        OUTER=outer,
        BLOCK_N=CHUNK_LENGTH,
        BLOCK_K=_reduced(CHUNK_LENGTH, row_side, like),
        BLOCK_INNER=_reduced(inner, row_side, like),
        BLOCK_OUTER=_block(outer),
        OF_QUERIES=of_queries,
        CAUSAL=pair_side is not None,
        HAS_COLUMN=column,
        HAS_MASK=mask is not None,
        HAS_FACTOR=factor is not None,
        HAS_SHIFT=shift is not None,
        PRECISION=_precision(row_side, like),
    )
    return gradient


@input_gradient.register_fake
def _(like, row_side, pair_side, summed, states, mask, factor, shift, of_queries, column, transposed):
    return _rows_like(like, like.shape[-1], like.dtype)


def _launch_sum(left, right, mask, factor, shift, sums, column, part_length) -> None:
    batch, heads, length, features = left.shape
    dim, parts = right.shape[-1], sums.shape[2]
    _launch(
        "sum",
        batch * heads * parts * _count(features, _block(features)) * _count(dim, _block(dim)),
        left.device,
        **_rows(left=left, right=right, factor=factor),
        **_mask(mask),
        shift=shift,
        sums=sums,
        sums_row=sums.stride(1),
        sums_part=sums.stride(2),
        **{"heads": heads, "length": length, "parts": parts, "part_length": part_length},
        F=features,
        D=dim,
        BLOCK_N=_reduced(CHUNK_LENGTH, left, right),
        BLOCK_F=_block(features),
        BLOCK_D=_block(dim),
        HAS_MASK=mask is not None,
        HAS_FACTOR=factor is not None,
        HAS_SHIFT=shift is not None,
        HAS_COLUMN=column,
        PRECISION=_precision(left, right),
    )


def _launch_attend(
    query, key, value, states, mask, scale, dim, normalize, eps, output, factor=None, shift=None
) -> None:
    batch, heads, length, features = query.shape
    chunks, weights = _count(length, CHUNK_LENGTH), factor is not None
    _launch(
        "attend",
        batch * heads * chunks * (1 if weights else _count(dim, _block(dim))),
        query.device,
        **_rows(query=query, key=key, value=value, scale=scale, output=output),
        **_states(states),
        **_mask(mask),
        factor=factor,
        shift=shift,
        **{"heads": heads, "length": length, "chunks": chunks, "eps": eps},
        F=features,
        D=dim,
        BLOCK_N=CHUNK_LENGTH,
        BLOCK_K=_reduced(CHUNK_LENGTH, query, value),
        BLOCK_F=_reduced(features, query, value),
        BLOCK_D=_block(dim),
        CAUSAL=key is not None,
        NORMALIZE=normalize,
        HAS_MASK=mask is not None,
        HAS_SCALE=scale is not None,
        WEIGHTS=weights,
        PRECISION=_precision(query, value),
    )


def tuning(kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """How a kernel is compiled: with as many warps as no register spills with."""
    many = kernel == "sum"
    if kernel == "attend":
        many = arguments["PRECISION"] == "ieee" and max(arguments["F"], arguments["D"]) <= 64
    # That products and sums may be fused is said because Triton 3.10 turns it off.
    return {"num_warps": 8 if many else 4, "num_stages": 2, "enable_fp_fusion": True}


def _launch(kernel: str, programs: int, device: torch.device, **arguments: Any) -> None:
    """Run `programs` programs of a kernel on `device`, which need not be the current one."""
    from .triton_kernels import KERNELS

    if programs > 0:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            KERNELS[kernel][(programs,)](**arguments, **tuning(kernel, arguments))


def _rows(**tensors: Tensor | None) -> dict[str, Any]:
    """Tensors ``[B, H, N, ..]`` and their first three strides, as the kernels name them."""
    arguments: dict[str, Any] = dict(tensors)
    for name, tensor in tensors.items():
        strides = (0, 0, 0) if tensor is None else tensor.stride()
        arguments |= {f"{name}_b": strides[0], f"{name}_h": strides[1], f"{name}_n": strides[2]}
    return arguments


def _states(states: Tensor) -> dict[str, Any]:
    """States of chunks ``[B, H, chunks, size]``, or one for all of them."""
    if states.dim() == 4:
        return {"states": states, "states_row": states.stride(1), "states_chunk": states.stride(2)}
    return {"states": states.contiguous(), "states_row": states.shape[-1], "states_chunk": 0}


def _mask(mask: Tensor | None) -> dict[str, Any]:
    if mask is None:
        return {"mask": None, "mask_b": 0, "mask_n": 0}
    return {"mask": mask.view(torch.uint8), "mask_b": mask.stride(0), "mask_n": mask.stride(1)}


def _rows_like(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    batch, heads, length, _ = tensor.shape
    return tensor.new_empty(batch, length, heads, dim, dtype=dtype).transpose(1, 2)


def _size(left: Tensor, right: Tensor, column: bool) -> int:
    return left.shape[-1] * (right.shape[-1] + column)


def _count(total: int, each: int) -> int:
    return -(-total // each)


def _block(dim: int) -> int:
    """The tile of a head dimension: a power of two, no less than a matrix product takes."""
    return 16 if dim <= 16 else 32 if dim <= 32 else 64


def _reduced(dim: int, *operands: Tensor | None) -> int:
    """The tile of a summed dimension: registers hold one step of float32 products, and of wide heads."""
    return 16 if _any_float32(operands) else 32 if dim > 128 else _block(dim)


def _precision(*operands: Tensor | None) -> str:
    """Not TF32 for float32; and not on ROCm, where few devices know it and float32 has matrix instructions."""
    return "ieee" if torch.version.hip is not None or _any_float32(operands) else "tf32"


def _any_float32(operands: tuple[Tensor | None, ...]) -> bool:
    return any(operand is not None and operand.dtype == torch.float32 for operand in operands)
