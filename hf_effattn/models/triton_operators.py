"""The operators that the ``triton`` backend is made of: which kernels they launch, with which tiles and parts.

Each operator is opaque to torch.compile and knows its outputs' shapes. Where a batch has too few heads to fill the
GPU, the tokens are split into parts: their sums are made first, and each part then starts from the sums before it. All
sums are reduced in a fixed order, without atomics: equal inputs give equal bits on one device.

States are ``[B, H, F, columns]``: ``S = sum_m k_m v_m^T`` and, with normalisation, ``z = sum_m k_m`` as last column.
"""

import contextlib
import functools
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


#: The fewest tokens of a part, and into how many sums those of a causal part are divided.
MIN_PART_LENGTH, SUMS_OF_PART = 256, 4

#: Programs that a launch is split into, for each processor of the GPU: reading a state, and summing, are short.
SHORT_PROGRAMS = 4

# The operators are named after this module: a checkpoint's copy of it has operators of its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


@torch.library.custom_op(f"{_NAMESPACE}::total_sums", mutates_args=())
def total_sums(
    left: Tensor, right: Tensor, mask: Tensor | None, factor: Tensor | None, shift: Tensor | None, column: bool
) -> Tensor:
    """``sum_n factor_n left_n right_n^T`` and, with `column`, ``sum_n shift_n left_n``: ``[B, H, F, columns]``.

    `factor` and `shift` are ``[B, H, N]``, 1 where None; masked tokens are left out. O(N F D).
    """
    tiling = Tiling.of("sum", left.shape[-1], right.shape[-1], False, left.device, left, right)
    parts = _Parts.of(left, tiling.tiles, SHORT_PROGRAMS)
    return _sums(left, right, mask, factor, shift, column, parts, range(parts.count)).sum(2)


@total_sums.register_fake
def _(left, right, mask, factor, shift, column):
    return _new_state(left, right, column)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs ``[B, H, N, D]``, with `normalize` the denominators ``[B, H, N]``, and the last state.

    Causal with key and value, beginning with `state`, if given. Without them every query reads `state`, and there is
    no last state. What there is not has no elements. O(N F D).
    """
    output, denominator, last = _made_by_attend(query, key, value, state, normalize, dtype)
    features, dim, causal = query.shape[-1], output.shape[-1], key is not None
    tiling = Tiling.of("attend", features, dim, causal, query.device, query, key, value)
    parts = _Parts.of(query, tiling.tiles, 1 if causal else SHORT_PROGRAMS)
    sums = None
    if key is not None and value is not None:
        sums = _sums_between(key, value, mask, None, None, normalize, parts, reverse=False)
    _launch(
        "attend",
        parts.rows * parts.count * tiling.tiles,
        query.device,
        tiling,
        **_rows(query=query, key=key, value=value, output=output, scale=scale),
        **_rows(denominator=denominator if normalize else None),
        **{"mask": _mask(mask), "edge": state, "sums": sums, "last": last if causal else None},
        **parts.arguments(),
        **{"eps": eps, "NORMALIZE": normalize, "F": features, "D": dim},
    )
    return output, denominator, last


@attend.register_fake
def _(query, key, value, mask, scale, state, normalize, eps, dtype):
    return _made_by_attend(query, key, value, state, normalize, dtype)


def _made_by_attend(query, key, value, state, normalize, dtype) -> tuple[Tensor, Tensor, Tensor]:
    dim = state.shape[-1] - normalize if value is None else value.shape[-1]
    output = _rows_like(query, dim, dtype)
    denominator = query.new_empty(query.shape[:3] if normalize else (0,), dtype=torch.float32)
    last = query.new_empty(0, dtype=torch.float32) if key is None else _new_state(key, output, normalize)
    return output, denominator, last


@torch.library.custom_op(f"{_NAMESPACE}::query_gradient", mutates_args=())
def query_gradient(
    of_output: Tensor,
    value: Tensor | None,
    key: Tensor | None,
    mask: Tensor | None,
    output: Tensor | None,
    scale: Tensor | None,
    denominator: Tensor | None,
    state: Tensor | None,
    features: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the queries, and, if normalised, what the other gradients need to know of each query.

    That is ``scale / den`` and the gradient of ``den``, for the denominators and outputs of `attend`. O(N F D).
    """
    normalize = denominator is not None
    gradient, factor, shift = _made_by_query_gradient(of_output, denominator, features, dtype)
    dim, causal = of_output.shape[-1], key is not None
    tiling = Tiling.of("gradient", dim, features, causal, of_output.device, of_output, value, key)
    parts = _Parts.of(of_output, tiling.tiles, 1 if causal else SHORT_PROGRAMS)
    sums = None
    if key is not None and value is not None:
        sums = _sums_between(key, value, mask, None, None, normalize, parts, reverse=False)
    _launch(
        "gradient",
        parts.rows * parts.count * tiling.tiles,
        of_output.device,
        tiling,
        **_rows(u=of_output, w=value, x=key, gradient=gradient, scale=scale, denominator=denominator),
        **_rows(output=output, factor=factor if normalize else None, shift=shift if normalize else None),
        **{"mask": _mask(mask), "edge": state, "sums": sums, "last": None},
        **parts.arguments(),
        **{"ROLE": "query", "NORMALIZE": normalize, "K": dim, "X": features},
    )
    return gradient, factor, shift


@query_gradient.register_fake
def _(of_output, value, key, mask, output, scale, denominator, state, features, dtype):
    return _made_by_query_gradient(of_output, denominator, features, dtype)


def _made_by_query_gradient(of_output, denominator, features, dtype) -> tuple[Tensor, Tensor, Tensor]:
    shape = (0,) if denominator is None else of_output.shape[:3]
    factor, shift = (of_output.new_empty(shape, dtype=torch.float32) for _ in range(2))
    return _rows_like(of_output, features, dtype), factor, shift


@torch.library.custom_op(f"{_NAMESPACE}::input_gradient", mutates_args=())
def input_gradient(
    role: str,
    u: Tensor,
    w: Tensor | None,
    x: Tensor | None,
    mask: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    of_state: Tensor,
    normalize: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The gradient of the keys (`role` "key") or values ("value"), and its part of the initial state's gradient.

    `u`, `w` and `x` are those of the table at `gradient_kernel`; without `w` and `x` attention is not causal, and
    there is no initial state. O(N F D).
    """
    gradient, of_initial = _made_by_input_gradient(role, u, x, of_state, normalize, dtype)
    inner, outer, causal = u.shape[-1], gradient.shape[-1], x is not None
    tiling = Tiling.of("gradient", inner, outer, causal, u.device, u, w, x)
    parts = _Parts.of(u, tiling.tiles, 1 if causal else SHORT_PROGRAMS)
    sums = None
    if w is not None and x is not None:
        left, right = (w, x) if role == "value" else (x, w)
        sums = _sums_between(left, right, None, factor, shift, normalize, parts, reverse=True)
    _launch(
        "gradient",
        parts.rows * parts.count * tiling.tiles,
        u.device,
        tiling,
        **_rows(u=u, w=w, x=x, gradient=gradient, factor=factor, shift=shift),
        **{"scale": None, "denominator": None, "output": None},
        **{"mask": _mask(mask), "edge": of_state, "sums": sums, "last": of_initial if causal else None},
        **parts.arguments(),
        **{"ROLE": role, "NORMALIZE": normalize, "K": inner, "X": outer},
    )
    return gradient, of_initial


@input_gradient.register_fake
def _(role, u, w, x, mask, factor, shift, of_state, normalize, dtype):
    return _made_by_input_gradient(role, u, x, of_state, normalize, dtype)


def _made_by_input_gradient(role, u, x, of_state, normalize, dtype) -> tuple[Tensor, Tensor]:
    outer = of_state.shape[-1] - normalize if role == "value" else of_state.shape[-2]
    return _rows_like(u, outer, dtype), of_state.new_empty((0,) if x is None else of_state.shape)


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
    block = min(32, _power_of_two(value.shape[-1]))
    _launch(
        "step",
        query.shape[0] * query.shape[1] * _count(value.shape[-1], block),
        query.device,
        Tiling(1, {"BLOCK_K": _power_of_two(query.shape[-1]), "BLOCK_X": block}, {"num_warps": 4}),
        **_rows(query=query, key=key, value=value, output=output, scale=scale),
        **{"mask": _mask(mask), "state": state, "new_state": new_state, "heads": query.shape[1], "eps": eps},
        **{"NORMALIZE": normalize, "F": query.shape[-1], "D": value.shape[-1]},
    )
    return output, new_state


@step.register_fake
def _(query, key, value, state, mask, scale, normalize, eps, dtype):
    return _rows_like(query, value.shape[-1], dtype), torch.empty_like(state)


@dataclass(frozen=True)
class _Parts:
    """How the programs of a launch divide the tokens.

    Attributes:
        rows: heads of all entries of the batch.
        heads: heads of an entry.
        tokens: of each row.
        count: parts that the tokens are divided into.
        length: tokens of a part.
        slots: sums of tokens that causal parts begin with, as many for each part.
    """

    rows: int
    heads: int
    tokens: int
    count: int
    length: int
    slots: int

    @classmethod
    def of(cls, tensor: Tensor, tiles: int, programs: int) -> "_Parts":
        """Of rows ``[B, H, N, ..]``, for about `programs` programs on each processor of the GPU."""
        batch, heads, tokens, _ = tensor.shape
        wanted = _count(programs * _processors(tensor.device), max(1, batch * heads * tiles))
        count = max(1, min(wanted, tokens // MIN_PART_LENGTH))
        length = _count(_count(tokens, count), 64 * SUMS_OF_PART) * 64 * SUMS_OF_PART
        count = _count(tokens, length)
        return cls(batch * heads, heads, tokens, count, length, count * SUMS_OF_PART)

    def arguments(self) -> dict[str, int]:
        """As the kernels name them."""
        sizes = {"heads": self.heads, "length": self.tokens, "parts": self.count}
        return {**sizes, "part_length": self.length, "slots": self.slots}


def _sums_between(left, right, mask, factor, shift, column, parts: _Parts, reverse: bool) -> Tensor | None:
    """What the parts of a causal walk begin with: the sums of all parts but the last, with `reverse` but the first."""
    if parts.count == 1:
        return None
    needed = range(SUMS_OF_PART, parts.slots) if reverse else range(parts.slots - SUMS_OF_PART)
    finer = _Parts(parts.rows, parts.heads, parts.tokens, parts.slots, parts.length // SUMS_OF_PART, parts.slots)
    return _sums(left, right, mask, factor, shift, column, finer, needed)


def _sums(left, right, mask, factor, shift, column, parts: _Parts, needed: range) -> Tensor:
    """The sums of the parts that are `needed`, ``[B, H, parts, F, columns]``; the others are not written."""
    features, dim = left.shape[-1], right.shape[-1]
    tiling = Tiling.of("sum", features, dim, False, left.device, left, right)
    sums = left.new_empty(*left.shape[:2], parts.count, features, dim + column, dtype=torch.float32)
    _launch(
        "sum",
        parts.rows * len(needed) * tiling.tiles,
        left.device,
        tiling,
        **_rows(left=left, right=right, factor=factor, shift=shift),
        **{"mask": _mask(mask), "sums": sums, "heads": parts.heads, "length": parts.tokens},
        **{"first_slot": needed.start, "parts": len(needed), "slots": parts.count, "part_length": parts.length},
        **{"F": features, "D": dim, "COLUMNS": dim + column},
    )
    return sums


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
    def of(cls, kernel: str, inner: int, outer: int, causal: bool, device: torch.device, *operands) -> "Tiling":
        """For products of rows of width `inner` and states to `outer` columns, of `operands` (or None)."""
        dtypes = {operand.dtype for operand in operands if operand is not None}
        bfloat16 = dtypes == {torch.bfloat16}
        # float16 has TF32's precision, but not its range. Few devices of ROCm know TF32, and multiply float32 fast.
        precision = "tf32x3" if torch.float32 in dtypes else "tf32"
        if torch.version.hip is not None:
            precision = "ieee"
        products = {"OPERAND": "bfloat16" if bfloat16 else "float32", "PRECISION": precision}
        tiles, blocks, options = _blocks(kernel, inner, outer, causal, bfloat16, shared_memory(device))
        return cls(tiles, blocks | products, options)


@functools.lru_cache(maxsize=256)
def _blocks(
    kernel: str, inner: int, outer: int, causal: bool, bfloat16: bool, memory: int
) -> tuple[int, dict[str, int], dict[str, Any]]:
    """Tiles, blocks and compiler's options: as long blocks of tokens, and as many stages, as `memory` (KiB) holds."""
    most = 128 if kernel == "sum" or not causal else 64
    block_k, block_x = _power_of_two(inner), min(most, _power_of_two(outer))
    tiles = _count(outer, block_x)
    rows_of_tokens = block_k + block_x if kernel == "sum" else 2 * block_k + block_x if causal else block_k
    if kernel == "sum":
        block_k = min(most, block_k)
        tiles *= _count(inner, block_k)
    size = 2 if bfloat16 else 4
    state = 0 if kernel == "sum" else block_k * block_x
    for block_n, stages in ((64, 3), (64, 2), (32, 2), (64, 1), (32, 1), (16, 1)):
        pairs = block_n * block_n if causal and kernel != "sum" else 0
        if (stages * block_n * rows_of_tokens + state + pairs) * size <= memory * 1024:
            break
    warps = 8 if block_k * block_x > 64 * 128 else 4
    # That products and sums may be fused is said because Triton 3.10 turns it off.
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    return tiles, {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x}, options


def shared_memory(device: torch.device) -> int:
    """The shared memory of one program in KiB."""
    if device.type != "cuda":
        return 99
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin // 1024


def _processors(device: torch.device) -> int:
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


def _rows_like(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    batch, heads, length, _ = tensor.shape
    return tensor.new_empty(batch, length, heads, dim, dtype=dtype).transpose(1, 2)


def _new_state(left: Tensor, right: Tensor, column: bool) -> Tensor:
    return left.new_empty(*left.shape[:2], left.shape[-1], right.shape[-1] + column, dtype=torch.float32)


def _count(total: int, each: int) -> int:
    return -(-total // each)


def _power_of_two(width: int) -> int:
    """The block of a width: no less than a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())
