"""The operators that the ``triton`` backend is made of: which kernels they launch, with which tiles and parts.

Each operator is opaque to torch.compile and knows its outputs' shapes. Where a batch has too few heads to fill the
GPU, the tokens are split into parts: their sums are made first, and each part then starts from the sums before it. All
sums are reduced in a fixed order, without atomics: equal inputs give equal bits on one device.

States are ``[B, H, F, columns]``: ``S = sum_m k_m v_m^T`` and, with normalisation, ``z = sum_m k_m`` as last column.
"""

import contextlib
import functools
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


#: The fewest tokens of a part, and into how many sums those of a causal part are divided.
MIN_PART_LENGTH, SUMS_OF_PART = 256, 4

#: Programs for each processor of the GPU, into which summing, and reading a state, are split.
SHORT_PROGRAMS = 4

#: Entries and chunks that one step of a running sum takes.
SCAN_FEATURES, SCAN_CHUNKS = 32, 64

# The operators are named after this module: a checkpoint's copy of it has operators of its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


@torch.library.custom_op(f"{_NAMESPACE}::total_sums", mutates_args=())
def total_sums(left: Tensor, right: Tensor, mask: Tensor | None, weight: Tensor | None, column: bool) -> Tensor:
    """``sum_n left_n right_n^T`` and, with `column`, ``sum_n weight_n left_n``: ``[B, H, F, columns]``.

    `weight` is ``[B, H, N]``, 1 where None; masked tokens are left out. O(N F D).
    """
    tiling = Tiling.of("sum", left.shape[-1], right.shape[-1], False, left.device, left, right)
    parts = Parts.of(left, tiling.tiles, SHORT_PROGRAMS)
    return _sums(left, right, mask, weight, column, column, parts, range(parts.count)).sum(2)


@total_sums.register_fake
def _(left, right, mask, weight, column):
    return _new_state(left, right.shape[-1], column)


@torch.library.custom_op(f"{_NAMESPACE}::attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    state: Tensor | None,
    normalize: bool,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs ``[B, H, N, D]``, denominators ``[B, H, N]``, `z` before each chunk, and the last state.

    Causal with key and value, beginning with `state`, if given. Without them every query reads `state`, and there are
    no chunks and no last state; without `normalize` there is no `z`. What there is not has no elements. O(N F D).
    """
    output, denominator, border, last = _made_by_attend(query, key, value, state, normalize, dtype)
    features, dim, causal = query.shape[-1], output.shape[-1], key is not None
    tiling = Tiling.of("attend", features, dim, causal, query.device, query, key, value)
    parts = Parts.of(query, tiling.tiles, 1 if causal else SHORT_PROGRAMS)
    sums, z = None, None
    if key is not None and value is not None:
        sums = _sums_between(key, value, mask, normalize, parts, reverse=False)
        if normalize:
            _scan(key, mask, None, state, border, last, tiling.constants["BLOCK_N"], reverse=False)
            z = _chunks(border)
    elif normalize and state is not None:
        z = _column(state)
    _launch(
        "attend",
        parts.rows * parts.count * tiling.tiles,
        query.device,
        tiling,
        **_rows(query=query, key=key, value=value, output=output, scale=scale),
        **_rows(denominator=denominator if normalize else None),
        **{"mask": _mask(mask), "border": z, "edge": state, "sums": sums, "last": last if causal else None},
        **parts.arguments(),
        **{"eps": eps, "NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, denominator, border, last


@attend.register_fake
def _(query, key, value, mask, scale, state, normalize, eps, dtype):
    return _made_by_attend(query, key, value, state, normalize, dtype)


def _made_by_attend(query, key, value, state, normalize, dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dim = state.shape[-1] - normalize if value is None else value.shape[-1]
    output = _rows_like(query, dim, dtype)
    denominator = query.new_empty(query.shape[:3] if normalize else (0,), dtype=torch.float32)
    if key is None:
        return output, denominator, *(query.new_empty(0, dtype=torch.float32) for _ in range(2))
    tiling = Tiling.of("attend", query.shape[-1], dim, True, query.device, query, key, value)
    border = _new_border(key, tiling) if normalize else query.new_empty(0, dtype=torch.float32)
    return output, denominator, border, _new_state(key, dim, normalize)


@torch.library.custom_op(f"{_NAMESPACE}::weigh", mutates_args=())
def weigh(
    of_output: Tensor, output: Tensor | None, scale: Tensor | None, denominator: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradient of the numerators, ``dO scale / den``, and that of the denominators, ``-(dO . output) / den``.

    Without denominators, which count as 1, the second has no elements. O(N D).
    """
    weighted, shift = _made_by_weigh(of_output, output, scale, denominator)
    batch, heads, length, dim = of_output.shape
    blocks = _count(length, 32)
    _launch(
        "weigh",
        batch * heads * blocks,
        of_output.device,
        Tiling(1, {"BLOCK_N": 32, "BLOCK_D": _power_of_two(dim)}, {"num_warps": 4}),
        **_rows(of_output=of_output, output=output, scale=scale, denominator=denominator, weighted=weighted),
        **_rows(shift=None if denominator is None else shift),
        **{"heads": heads, "length": length, "blocks": blocks, "D": dim},
    )
    return weighted, shift


@weigh.register_fake
def _(of_output, output, scale, denominator):
    return _made_by_weigh(of_output, output, scale, denominator)


def _made_by_weigh(of_output, output, scale, denominator) -> tuple[Tensor, Tensor]:
    # float16's range is too small for a gradient that is divided by a sum.
    dtype = torch.bfloat16 if of_output.dtype == torch.bfloat16 else torch.float32
    shift = of_output.new_empty((0,) if denominator is None else of_output.shape[:3], dtype=torch.float32)
    return _rows_like(of_output, of_output.shape[-1], dtype), shift


@torch.library.custom_op(f"{_NAMESPACE}::input_gradient", mutates_args=())
def input_gradient(
    role: str,
    u: Tensor,
    w: Tensor | None,
    x: Tensor | None,
    mask: Tensor | None,
    shift: Tensor | None,
    border: Tensor | None,
    edge: Tensor | None,
    outer: int,
    normalize: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The gradient of the "query", "key" or "value", and for the latter two their part of the initial state's.

    Args:
        role: whose gradient.
        u, w, x: those of the table at `gradient_kernel`; without `w` and `x` attention is not causal.
        mask: ``[B, N]``, of the keys.
        shift: the gradients of the denominators.
        border: the `z` before each chunk, for causal queries.
        edge: the state that the queries began with, for "query"; otherwise the gradient of the last state.
        outer: the width of the gradient.
        normalize: whether states have a column.
        dtype: of the gradient.

    O(N F D).
    """
    gradient, of_initial = _made_by_input_gradient(role, u, x, edge, outer, dtype)
    inner, causal = u.shape[-1], x is not None
    tiling = Tiling.of("gradient", inner, outer, causal, u.device, u, w, x)
    parts = Parts.of(u, tiling.tiles, 1 if causal else SHORT_PROGRAMS)
    sums, outside = None, None
    if w is not None and x is not None:
        left, right = (w, x) if role == "value" else (x, w)
        of_query = role == "query"
        sums = _sums_between(left, right, mask if of_query else None, normalize, parts, reverse=not of_query)
        if role == "key" and normalize:
            border = _new_border(x, tiling)
            _scan(x, None, shift, edge, border, of_initial, tiling.constants["BLOCK_N"], reverse=True)
        outside = _chunks(border) if normalize and role != "value" and border is not None else None
    elif normalize and role != "value" and edge is not None:
        outside = _column(edge)
    _launch(
        "gradient",
        parts.rows * parts.count * tiling.tiles,
        u.device,
        tiling,
        **_rows(u=u, w=w, x=x, gradient=gradient, shift=shift),
        **{"mask": _mask(mask), "border": outside, "edge": edge, "sums": sums},
        **{"last": of_initial if causal and role == "value" else None},
        **parts.arguments(),
        **{"ROLE": role, "COLUMNS": (outer if role == "value" else inner) + normalize, "K": inner, "X": outer},
    )
    return gradient, of_initial


@input_gradient.register_fake
def _(role, u, w, x, mask, shift, border, edge, outer, normalize, dtype):
    return _made_by_input_gradient(role, u, x, edge, outer, dtype)


def _made_by_input_gradient(role, u, x, edge, outer, dtype) -> tuple[Tensor, Tensor]:
    shape = (0,) if x is None or role == "query" else edge.shape
    return _rows_like(u, outer, dtype), u.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(f"{_NAMESPACE}::step", mutates_args=())
def step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    normalize: bool,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """One token after those of `state`: its output ``[B, H, 1, D]`` and the new state. O(F D)."""
    output, new_state = _rows_like(query, value.shape[-1], dtype), torch.empty_like(state)
    features, dim = query.shape[-1], value.shape[-1]
    block = min(32, _power_of_two(dim))
    _launch(
        "step",
        query.shape[0] * query.shape[1] * _count(dim, block),
        query.device,
        Tiling(1, {"BLOCK_K": _power_of_two(features), "BLOCK_X": block}, {"num_warps": 4}),
        **_rows(query=query, key=key, value=value, output=output, scale=scale),
        **{"mask": _mask(mask), "state": state, "new_state": new_state, "heads": query.shape[1], "eps": eps},
        **{"NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, new_state


@step.register_fake
def _(query, key, value, state, mask, scale, normalize, eps, dtype):
    return _rows_like(query, value.shape[-1], dtype), torch.empty_like(state)


def _sums_between(left, right, mask, column: bool, parts: "Parts", reverse: bool) -> Tensor | None:
    """What the parts of a causal walk begin with: the sums of all parts but the last, with `reverse` but the first."""
    if parts.count == 1:
        return None
    needed = range(SUMS_OF_PART, parts.slots) if reverse else range(parts.slots - SUMS_OF_PART)
    finer = replace(parts, count=parts.slots, length=parts.length // SUMS_OF_PART)
    return _sums(left, right, mask, None, column, False, finer, needed)


def _sums(left, right, mask, weight, has_column: bool, column: bool, parts: "Parts", needed: range) -> Tensor:
    """The sums of the parts that are `needed`, ``[B, H, parts, F, columns]``; their column only with `column`."""
    features, dim = left.shape[-1], right.shape[-1]
    tiling = Tiling.of("sum", features, dim, False, left.device, left, right)
    sums = left.new_empty(*left.shape[:2], parts.count, features, dim + has_column, dtype=torch.float32)
    _launch(
        "sum",
        parts.rows * len(needed) * tiling.tiles,
        left.device,
        tiling,
        **_rows(left=left, right=right, weight=weight),
        **{"mask": _mask(mask), "sums": sums, "heads": parts.heads, "length": parts.tokens},
        **{"first_slot": needed.start, "parts": len(needed), "slots": parts.count, "part_length": parts.length},
        **{"F": features, "D": dim, "COLUMNS": dim + has_column, "COLUMN": column},
    )
    return sums


def _scan(
    rows, mask, weight, edge: Tensor | None, border: Tensor, last: Tensor, chunk_length: int, reverse: bool
) -> None:
    """Write to `border` ``[B, H, chunks, F]`` what precedes each chunk, and to the column of `last` what all sum to."""
    batch, heads, length, features = rows.shape
    chunks = border.shape[2]
    _launch(
        "chunk",
        batch * heads * chunks,
        rows.device,
        Tiling(1, {"BLOCK_N": chunk_length, "BLOCK_F": _power_of_two(features)}, {"num_warps": 4}),
        **_rows(rows=rows, weight=weight),
        **{"mask": _mask(mask), "sums": border, "heads": heads, "length": length, "chunks": chunks, "F": features},
    )
    _launch(
        "scan",
        batch * heads * _count(features, SCAN_FEATURES),
        rows.device,
        Tiling(1, {"BLOCK_F": SCAN_FEATURES, "BLOCK_CHUNKS": SCAN_CHUNKS}, {"num_warps": 4}),
        **{"sums": border, "edge": _edge(edge), "total": _edge(last), "chunks": chunks},
        **{"F": features, "REVERSE": reverse},
    )


@dataclass(frozen=True)
class Parts:
    """How the programs of a launch divide the tokens.

    Attributes:
        rows: heads of all entries of the batch.
        heads: heads of an entry.
        tokens: of each row.
        count: parts that the tokens are divided into.
        length: tokens of a part.
        slots: sums that causal parts begin with, equally many for each part.
    """

    rows: int
    heads: int
    tokens: int
    count: int
    length: int
    slots: int

    @classmethod
    def of(cls, tensor: Tensor, tiles: int, programs: int) -> "Parts":
        """Of rows ``[B, H, N, ..]``, for about `programs` programs on each processor of the GPU."""
        batch, heads, tokens, _ = tensor.shape
        wanted = _count(programs * processors(tensor.device), max(1, batch * heads * tiles))
        count = max(1, min(wanted, tokens // MIN_PART_LENGTH))
        length = _count(_count(tokens, count), MIN_PART_LENGTH) * MIN_PART_LENGTH
        count = _count(tokens, length)
        return cls(batch * heads, heads, tokens, count, length, count * SUMS_OF_PART)

    def arguments(self) -> dict[str, int]:
        """As the kernels name them."""
        sizes = {"heads": self.heads, "length": self.tokens, "parts": self.count}
        return {**sizes, "part_length": self.length, "slots": self.slots}


@dataclass(frozen=True)
class Tiling:
    """How a kernel divides the columns of its result, and how it is compiled.

    Attributes:
        tiles: how many programs share the columns.
        constants: sizes of blocks, and how products are made.
        options: of Triton's compiler.
    """

    tiles: int
    constants: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(
        cls, kernel: str, inner: int, outer: int, causal: bool, device: torch.device, *operands: Tensor | None
    ) -> "Tiling":
        """For products of rows of width `inner` and states to `outer` columns, of `operands`."""
        dtypes = {operand.dtype for operand in operands if operand is not None}
        bfloat16 = dtypes == {torch.bfloat16}
        # TF32 has float16's precision and float32's range. Few devices of ROCm know it, and those multiply float32 fast.
        precision = "tf32x3" if torch.float32 in dtypes else "tf32"
        if torch.version.hip is not None:
            precision = "ieee"
        products = {"OPERAND": "bfloat16" if bfloat16 else "float32", "PRECISION": precision}
        divide = _blocks_of_sum if kernel == "sum" else _blocks_of_walk if causal else _blocks_of_read
        tiles, blocks, options = divide(inner, outer, 2 if bfloat16 else 4, shared_memory(device))
        # That products and sums may be fused is said because Triton 3.10 turns it off.
        return cls(tiles, blocks | products, options | {"enable_fp_fusion": True})


@functools.cache
def _blocks_of_sum(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, int], dict[str, int]]:
    """Tiles, blocks and compiler's options of `sum_kernel`, for operands of `size` bytes and `memory` in KiB."""
    most = 128 if size == 2 else 64
    block_k, block_x = min(most, _power_of_two(inner)), min(most, _power_of_two(outer))
    stages = 3 if 3 * 64 * (block_k + block_x) * size <= memory * 1024 else 1
    options = {"num_warps": 8 if block_k * block_x > 64 * 64 else 4, "num_stages": stages}
    tiles = _count(inner, block_k) * _count(outer, block_x)
    return tiles, {"BLOCK_N": 64 if size == 2 else 32, "BLOCK_K": block_k, "BLOCK_X": block_x}, options


@functools.cache
def _blocks_of_read(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, int], dict[str, int]]:
    """The same of the kernels where every row reads one state."""
    block_k, block_x = _power_of_two(inner), min(128 if size == 2 else 64, _power_of_two(outer))
    block_n = 64
    while (block_n + block_x) * block_k * size > memory * 1024 and block_n > 16:
        block_n //= 2
    stages = 2 if (2 * block_n + block_x) * block_k * size <= memory * 1024 else 1
    options = {"num_warps": 8 if block_k * block_x > 64 * 64 else 4, "num_stages": stages}
    return _count(outer, block_x), {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x}, options


@functools.cache
def _blocks_of_walk(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, int], dict[str, int]]:
    """The same of the kernels that walk. Their chunks are as long for `inner` and `outer` exchanged.

    Shared memory holds the rows of two operands and a tile of the third, a copy for each stage, the state, and the
    weights of the pairs of a chunk.
    """
    width = _power_of_two(max(inner, outer))
    block_k, block_x = _power_of_two(inner), min(64, _power_of_two(outer))

    def fits(block_n: int, stages: int, rows: int, columns: int) -> bool:
        tiles = stages * block_n * (2 * rows + columns) + rows * columns + block_n * block_n
        return tiles * size <= memory * 1024

    block_n = next((block for block in (64, 32) if fits(block, 1, width, min(64, width))), 16)
    stages = 2 if fits(block_n, 2, block_k, block_x) else 1
    options = {"num_warps": 8 if block_k * block_x * size > 128 * 64 * 2 else 4, "num_stages": stages}
    return _count(outer, block_x), {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x}, options


def shared_memory(device: torch.device) -> int:
    """The shared memory of one program in KiB."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 99
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin // 1024


def processors(device: torch.device) -> int:
    """Processors of a GPU; on a CPU, for Triton's interpreter, a number that makes several parts of a sequence."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 16


def _launch(kernel: str, programs: int, device: torch.device, tiling: Tiling, **arguments: Any) -> None:
    """Run `programs` programs of a kernel on `device`, which need not be the current one."""
    from .triton_kernels import KERNELS

    if programs > 0:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            KERNELS[kernel][(programs,)](**arguments, **tiling.constants, **tiling.options)


def _rows(**tensors: Tensor | None) -> dict[str, Any]:
    """Tensors ``[B, H, N, ..]`` with their first three strides, as the kernels take them."""
    return {name: None if tensor is None else (tensor, *tensor.stride()[:3]) for name, tensor in tensors.items()}


def _mask(mask: Tensor | None) -> tuple[Tensor, int, int] | None:
    return None if mask is None else (mask.view(torch.uint8), *mask.stride())


def _chunks(border: Tensor) -> tuple[Tensor, int, int, int]:
    """What lies outside of each chunk, ``[B, H, chunks, F]``, with its strides."""
    return border, *border.stride()[1:]


def _column(state: Tensor) -> tuple[Tensor, int, int, int]:
    """The column of a state in the place of `_chunks`: equal for all chunks."""
    return state[..., -1], state.stride(1), 0, state.stride(2)


def _edge(state: Tensor | None) -> tuple[Tensor, int, int] | None:
    """The column of a state with its strides."""
    return None if state is None else (state[..., -1], state.stride(1), state.stride(2))


def _rows_like(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    batch, heads, length, _ = tensor.shape
    return tensor.new_empty(batch, length, heads, dim, dtype=dtype).transpose(1, 2)


def _new_state(left: Tensor, dim: int, column: bool) -> Tensor:
    return left.new_empty(*left.shape[:2], left.shape[-1], dim + column, dtype=torch.float32)


def _new_border(rows: Tensor, tiling: Tiling) -> Tensor:
    batch, heads, length, features = rows.shape
    return rows.new_empty(batch, heads, _count(length, tiling.constants["BLOCK_N"]), features, dtype=torch.float32)


def _count(total: int, each: int) -> int:
    return -(-total // each)


def _power_of_two(width: int) -> int:
    """The block of a width: no less than a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())
