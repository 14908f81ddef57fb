"""The operators that the ``triton`` backend is made of, each of which is opaque to torch.compile.

Where a batch has too few heads to fill the GPU, the tokens are split into parts: their sums are made first, and each
part then starts from the sums before it. All sums are reduced in a fixed order, without atomics: equal inputs give
equal bits on one device.

States are ``[B, H, F, columns]``: ``S = sum_m k_m v_m^T`` and, with normalisation, ``z = sum_m k_m`` as last column.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from .triton_launch import (
    SUMS_OF_PART,
    Parts,
    Tiling,
    block,
    chunks_border,
    column,
    column_as_border,
    count,
    launch,
    mask_rows,
    rows,
)


#: Programs for each processor of the GPU, into which summing, and reading a state, are split.
SHORT_PROGRAMS = 4

#: Features and chunks that one step of a running sum takes, and rows that are weighed at once.
SCAN_FEATURES, SCAN_CHUNKS, WEIGHED_ROWS = 32, 64, 32

# The operators are named after this module: a checkpoint's copy of it has operators of its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


@torch.library.custom_op(f"{_NAMESPACE}::total_sums", mutates_args=())
def total_sums(key: Tensor, value: Tensor, mask: Tensor | None, normalize: bool) -> Tensor:
    """The state of all real tokens, ``[B, H, F, columns]``. O(N F D)."""
    return _total_sums(key, value, mask, None, normalize)


@total_sums.register_fake
def _(key: Tensor, value: Tensor, mask: Tensor | None, normalize: bool) -> Tensor:
    return _new_state(key, value.shape[-1], normalize)


@torch.library.custom_op(f"{_NAMESPACE}::sum_gradients", mutates_args=())
def sum_gradients(
    of_state: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of keys and values of `total_sums`. O(N F D)."""
    of_key, of_value = _new_rows(key), _new_rows(value)
    _read_gradient("key", value, mask, None, of_state, of_key, normalize)
    _read_gradient("value", key, mask, None, of_state, of_value, normalize)
    return of_key, of_value


@sum_gradients.register_fake
def _(of_state: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, normalize: bool) -> tuple[Tensor, Tensor]:
    return _new_rows(key), _new_rows(value)


@torch.library.custom_op(f"{_NAMESPACE}::read", mutates_args=())
def read(
    query: Tensor, state: Tensor, scale: Tensor | None, normalize: bool, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Outputs ``[B, H, N, D]`` of queries that all read `state`, and with `normalize` denominators ``[B, H, N]``.

    Without `normalize` the denominators have no elements. O(N F D).
    """
    features, dim = query.shape[-1], state.shape[-1] - normalize
    output, denominator = _new_rows(query, dim, dtype), _new_numbers(query, normalize)
    tiling = Tiling.of("attend", features, dim, False, query.device, query)
    parts = Parts.of(query, tiling.tiles, SHORT_PROGRAMS)
    launch(
        "attend",
        parts.rows * parts.count * tiling.tiles,
        query.device,
        tiling.constants,
        **rows(query=query, key=None, value=None, output=output, scale=scale),
        **rows(denominator=denominator if normalize else None),
        **{"mask": None, "border": column_as_border(state) if normalize else None},
        **{"edge": state, "sums": None, "last": None},
        **parts.arguments(),
        **{"eps": eps, "NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, denominator


@read.register_fake
def _(
    query: Tensor, state: Tensor, scale: Tensor | None, normalize: bool, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return _new_rows(query, state.shape[-1] - normalize, dtype), _new_numbers(query, normalize)


@torch.library.custom_op(f"{_NAMESPACE}::read_gradients", mutates_args=())
def read_gradients(
    of_output: Tensor,
    query: Tensor,
    state: Tensor,
    scale: Tensor | None,
    output: Tensor | None,
    denominator: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The gradients of queries and state of `read`; its outputs and denominators are given if normalised. O(N F D)."""
    normalize = denominator is not None
    weighted, shift = _weigh(of_output, output, scale, denominator)
    of_query = _new_rows(query)
    _read_gradient("query", weighted, None, shift, state, of_query, normalize)
    return of_query, _total_sums(query, weighted, None, shift, normalize)


@read_gradients.register_fake
def _(of_output: Tensor, query: Tensor, state: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    return _new_rows(query), torch.empty_like(state)


@torch.library.custom_op(f"{_NAMESPACE}::walk", mutates_args=())
def walk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    normalize: bool,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal outputs ``[B, H, N, D]``, with `normalize` denominators ``[B, H, N]``, and the last state.

    `initial` is the state to begin with. Without `normalize` the denominators have no elements. O(N F D).
    """
    output, denominator, last = _new_walk_results(query, key, value, normalize, dtype)
    features, dim = query.shape[-1], value.shape[-1]
    tiling = Tiling.of("attend", features, dim, True, query.device, query, key, value)
    parts = Parts.of(query, tiling.tiles, 1)
    border = _border(key, mask, None, initial, last, tiling, reverse=False) if normalize else None
    launch(
        "attend",
        parts.rows * parts.count * tiling.tiles,
        query.device,
        tiling.constants,
        **rows(query=query, key=key, value=value, output=output, scale=scale),
        **rows(denominator=denominator if normalize else None),
        **{"mask": mask_rows(mask), "border": border},
        **{"edge": initial, "sums": _sums_between(key, value, mask, normalize, parts, reverse=False), "last": last},
        **parts.arguments(),
        **{"eps": eps, "NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, denominator, last


@walk.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    normalize: bool,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_walk_results(query, key, value, normalize, dtype)


def _new_walk_results(
    query: Tensor, key: Tensor, value: Tensor, normalize: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    dim = value.shape[-1]
    return _new_rows(query, dim, dtype), _new_numbers(query, normalize), _new_state(key, dim, normalize)


@torch.library.custom_op(f"{_NAMESPACE}::walk_gradients", mutates_args=())
def walk_gradients(
    of_output: Tensor,
    of_last: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    initial: Tensor | None,
    output: Tensor | None,
    denominator: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of queries, keys, values and initial state of `walk`; `output` and `denominator` if normalised.

    O(N F D).
    """
    normalize = denominator is not None
    weighted, shift = _weigh(of_output, output, scale, denominator)
    of_query, of_key, of_value, of_initial = _new_rows(query), _new_rows(key), _new_rows(value), of_last.clone()
    before, after = None, None
    features, dim, inputs = key.shape[-1], value.shape[-1], (query, key, value)
    # Of queries and of keys; of values.
    by_dim = Tiling.of("gradient", dim, features, True, key.device, *inputs)
    by_feature = Tiling.of("gradient", features, dim, True, key.device, *inputs)
    if normalize:
        before = _border(key, mask, None, initial, None, by_dim, reverse=False)
        after = _border(query, None, shift, of_last, of_initial, by_dim, reverse=True)
    rest = (mask, shift, normalize)
    _gradient("query", weighted, value, key, *rest, before, initial, of_query, None, by_dim)
    _gradient("key", value, weighted, query, *rest, after, of_last, of_key, None, by_dim)
    _gradient("value", key, query, weighted, *rest, None, of_last, of_value, of_initial, by_feature)
    return of_query, of_key, of_value, of_initial


@walk_gradients.register_fake
def _(
    of_output: Tensor, of_last: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _new_rows(query), _new_rows(key), _new_rows(value), torch.empty_like(of_last)


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
    features, dim = query.shape[-1], value.shape[-1]
    output, new_state = _new_rows(query, dim, dtype), torch.empty_like(state)
    columns = min(32, block(dim))
    launch(
        "step",
        query.shape[0] * query.shape[1] * count(dim, columns),
        query.device,
        {"BLOCK_K": block(features), "BLOCK_X": columns},
        **rows(query=query, key=key, value=value, output=output, scale=scale),
        **{"mask": mask_rows(mask), "state": state, "new_state": new_state, "heads": query.shape[1], "eps": eps},
        **{"NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, new_state


@step.register_fake
def _(
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
    return _new_rows(query, value.shape[-1], dtype), torch.empty_like(state)


def _total_sums(left: Tensor, right: Tensor, mask: Tensor | None, weight: Tensor | None, normalize: bool) -> Tensor:
    """``sum_n left_n right_n^T`` over the real tokens and, with `normalize`, ``sum_n weight_n left_n``."""
    tiling = Tiling.of("sum", left.shape[-1], right.shape[-1], False, left.device, left, right)
    parts = Parts.of(left, tiling.tiles, SHORT_PROGRAMS)
    sums = _sums(left, right, mask, weight, normalize, normalize, parts, range(parts.count))
    return sums.squeeze(2) if parts.count == 1 else sums.sum(2)


def _sums_between(
    left: Tensor, right: Tensor, mask: Tensor | None, normalize: bool, parts: Parts, reverse: bool
) -> Tensor | None:
    """The sums that parts of a causal walk start from: of all but the last, with `reverse` of all but the first."""
    if parts.count == 1:
        return None
    needed = range(SUMS_OF_PART, parts.slots) if reverse else range(parts.slots - SUMS_OF_PART)
    finer = replace(parts, count=parts.slots, length=parts.length // SUMS_OF_PART)
    return _sums(left, right, mask, None, normalize, False, finer, needed)


def _sums(
    left: Tensor,
    right: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    has_column: bool,
    fill_column: bool,
    parts: Parts,
    needed: range,
) -> Tensor:
    """The sums of the parts that are `needed`, ``[B, H, parts, F, columns]``."""
    features, dim = left.shape[-1], right.shape[-1]
    tiling = Tiling.of("sum", features, dim, False, left.device, left, right)
    sums = left.new_empty(*left.shape[:2], parts.count, features, dim + has_column, dtype=torch.float32)
    launch(
        "sum",
        parts.rows * len(needed) * tiling.tiles,
        left.device,
        tiling.constants,
        **rows(left=left, right=right, weight=weight),
        **{"mask": mask_rows(mask), "sums": sums, "heads": parts.heads, "length": parts.tokens},
        **{"first_slot": needed.start, "parts": len(needed), "slots": parts.count, "part_length": parts.length},
        **{"F": features, "D": dim, "COLUMNS": dim + has_column, "COLUMN": fill_column},
    )
    return sums


def _border(
    tensor: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    edge: Tensor | None,
    total: Tensor | None,
    tiling: Tiling,
    reverse: bool,
) -> tuple[Tensor, int, int, int]:
    """The weighted sums of rows before each block of tokens, with `reverse` after it, ``[B, H, blocks, F]``.

    They start from the column of the state `edge`. The sum of all rows is written to the column of the state `total`.
    """
    batch, heads, tokens, features = tensor.shape
    chunks = count(tokens, tiling.chunk_length)
    sums = tensor.new_empty(batch, heads, chunks, features, dtype=torch.float32)
    launch(
        "chunk",
        batch * heads * chunks,
        tensor.device,
        {"BLOCK_N": tiling.chunk_length, "BLOCK_F": block(features)},
        **rows(rows=tensor, weight=weight),
        **{"mask": mask_rows(mask), "sums": sums, "heads": heads, "length": tokens, "chunks": chunks, "F": features},
    )
    launch(
        "scan",
        batch * heads * count(features, SCAN_FEATURES),
        tensor.device,
        {"BLOCK_F": SCAN_FEATURES, "BLOCK_CHUNKS": SCAN_CHUNKS},
        **{"sums": sums, "edge": column(edge), "total": column(total), "chunks": chunks},
        **{"F": features, "REVERSE": reverse},
    )
    return chunks_border(sums)


def _weigh(
    of_output: Tensor, output: Tensor | None, scale: Tensor | None, denominator: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the numerators, ``dO scale / den``, and that of the denominators, ``-(dO . output) / den``."""
    if scale is None and denominator is None:
        return of_output, None
    # float16's range is too small for a gradient that is divided by a sum.
    weighted = _new_rows(of_output, dtype=torch.bfloat16 if of_output.dtype == torch.bfloat16 else torch.float32)
    shift = None if denominator is None else torch.empty_like(denominator)
    batch, heads, length, dim = of_output.shape
    blocks = count(length, WEIGHED_ROWS)
    launch(
        "weigh",
        batch * heads * blocks,
        of_output.device,
        {"BLOCK_N": WEIGHED_ROWS, "BLOCK_D": block(dim)},
        **rows(of_output=of_output, output=output, scale=scale, denominator=denominator),
        **rows(weighted=weighted, shift=shift),
        **{"heads": heads, "length": length, "blocks": blocks, "D": dim},
    )
    return weighted, shift


def _read_gradient(
    role: str,
    u: Tensor,
    mask: Tensor | None,
    shift: Tensor | None,
    edge: Tensor,
    gradient: Tensor,
    normalize: bool,
) -> None:
    """Write the gradient of queries, keys or values that have read or written one state."""
    tiling = Tiling.of("gradient", u.shape[-1], gradient.shape[-1], False, u.device, gradient)
    border = column_as_border(edge) if normalize and role != "value" else None
    _gradient(role, u, None, None, mask, shift, normalize, border, edge, gradient, None, tiling)


def _gradient(
    role: str,
    u: Tensor,
    w: Tensor | None,
    x: Tensor | None,
    mask: Tensor | None,
    shift: Tensor | None,
    normalize: bool,
    border: tuple[Tensor, int, int, int] | None,
    edge: Tensor | None,
    gradient: Tensor,
    of_initial: Tensor | None,
    tiling: Tiling,
) -> None:
    """Write `gradient` and, for causal values, the matrix of `of_initial`; for the others see `gradient_kernel`."""
    inner, outer = u.shape[-1], gradient.shape[-1]
    parts = Parts.of(u, tiling.tiles, SHORT_PROGRAMS if w is None else 1)
    sums = None
    if w is not None and x is not None:
        left, right = (w, x) if role == "value" else (x, w)
        of_query = role == "query"
        sums = _sums_between(left, right, mask if of_query else None, normalize, parts, reverse=not of_query)
    launch(
        "gradient",
        parts.rows * parts.count * tiling.tiles,
        u.device,
        tiling.constants,
        **rows(u=u, w=w, x=x, gradient=gradient, shift=shift),
        **{"mask": mask_rows(mask), "border": border, "edge": edge, "sums": sums, "last": of_initial},
        **parts.arguments(),
        **{"ROLE": role, "COLUMNS": (outer if role == "value" else inner) + normalize, "K": inner, "X": outer},
    )


def _new_rows(tensor: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """An empty ``[B, H, N, dim]``, stored as ``[B, N, H, dim]``."""
    batch, heads, length, width = tensor.shape
    shape = (batch, length, heads, width if dim is None else dim)
    return tensor.new_empty(shape, dtype=dtype or tensor.dtype).transpose(1, 2)


def _new_numbers(tensor: Tensor, wanted: bool) -> Tensor:
    return tensor.new_empty(tensor.shape[:3] if wanted else (0,), dtype=torch.float32)


def _new_state(left: Tensor, dim: int, normalize: bool) -> Tensor:
    return left.new_empty(*left.shape[:2], left.shape[-1], dim + normalize, dtype=torch.float32)
