"""How the Triton kernels are launched: tiles, parts of the tokens, and arguments."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


#: The fewest tokens of a part, and into how many sums those of a causal part are divided.
MIN_PART_LENGTH, SUMS_OF_PART = 256, 4


class Architecture(NamedTuple):
    """The properties of a GPU by which kernels are launched.

    Attributes:
        name: "sm80" (Ampere, or Ada), "sm90" (Hopper), "sm100" (Blackwell, or later), or "rocm".
        memory: the shared memory of one program in KiB.
    """

    name: str
    memory: int


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
        """The parts of rows ``[B, H, N, ..]``, for about `programs` programs on each processor of the GPU."""
        batch, heads, tokens, _ = tensor.shape
        wanted = count(programs * processors(tensor.device), max(1, batch * heads * tiles))
        parts = max(1, min(wanted, tokens // MIN_PART_LENGTH))
        length = count(count(tokens, parts), MIN_PART_LENGTH) * MIN_PART_LENGTH
        parts = count(tokens, length)
        return cls(batch * heads, heads, tokens, parts, length, parts * SUMS_OF_PART)

    def arguments(self) -> dict[str, int]:
        """The sizes, by the names of the kernels' parameters."""
        sizes = {"heads": self.heads, "length": self.tokens, "parts": self.count}
        return {**sizes, "part_length": self.length, "slots": self.slots}


@dataclass(frozen=True)
class Tiling:
    """How a kernel divides the columns of its result, and how it is compiled.

    Attributes:
        tiles: how many programs share the columns.
        constants: sizes of blocks, how products are made, and options of Triton's compiler.
    """

    tiles: int
    constants: dict[str, Any]

    @property
    def chunk_length(self) -> int:
        """Tokens of one block."""
        return int(self.constants["BLOCK_N"])

    @classmethod
    def of(
        cls, kernel: str, inner: int, outer: int, causal: bool, device: torch.device, *operands: Tensor | None
    ) -> "Tiling":
        """For products of rows of width `inner` and states to `outer` columns, of `operands`."""
        dtypes = frozenset(operand.dtype for operand in operands if operand is not None)
        return tiling(kernel, inner, outer, causal, dtypes, architecture(device))


@functools.lru_cache(maxsize=1024)
def tiling(
    kernel: str, inner: int, outer: int, causal: bool, dtypes: frozenset[torch.dtype], gpu: Architecture
) -> Tiling:
    """The tiling of a kernel for operands of these `dtypes`."""
    bfloat16 = dtypes == {torch.bfloat16}
    # TF32 has float16's precision and float32's range. Few devices of ROCm know it; they multiply float32 fast.
    precision = "ieee" if gpu.name == "rocm" else "tf32x3" if torch.float32 in dtypes else "tf32"
    float16 = precision == "tf32" and not bfloat16
    if kernel == "sum":
        blocks = _blocks_of_sum
    elif not causal:
        blocks = _blocks_of_read
    elif gpu.name == "sm80" or (gpu.name == "sm100" and float16):
        blocks = _small_blocks_of_walk
    else:
        blocks = _blocks_of_walk
    tiles, constants = blocks(inner, outer, 2 if bfloat16 else 4, gpu.memory * 1024)
    if blocks is _small_blocks_of_walk and float16:
        constants["BLOCK_N"] = 16
    constants |= {"OPERAND": "bfloat16" if bfloat16 else "float32", "PRECISION": precision}
    # That products and sums may be fused is said because Triton 3.10 turns it off.
    return Tiling(tiles, constants | {"enable_fp_fusion": True})


def _blocks_of_sum(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, Any]]:
    """Tiles, blocks and compiler's options of `sum_kernel`, for operands of `size` bytes and `memory` in bytes."""
    most = 128 if size == 2 else 64
    block_k, block_x = min(most, block(inner)), min(most, block(outer))
    block_n = 64 if size == 2 else 32
    stages = 3 if 3 * block_n * (block_k + block_x) * size <= memory else 1
    options = {"num_warps": 8 if block_k * block_x > 64 * 64 else 4, "num_stages": stages}
    tiles = count(inner, block_k) * count(outer, block_x)
    return tiles, {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x, **options}


def _blocks_of_read(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, Any]]:
    """The same of the kernels whose rows all read one state."""
    block_k, block_x = block(inner), min(128 if size == 2 else 64, block(outer))
    block_n = 64
    while (block_n + block_x) * block_k * size > memory and block_n > 16:
        block_n //= 2
    stages = 2 if (2 * block_n + block_x) * block_k * size <= memory else 1
    options = {"num_warps": 8 if block_k * block_x > 64 * 64 else 4, "num_stages": stages}
    return count(outer, block_x), {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x, **options}


def _blocks_of_walk(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, Any]]:
    """The same of the kernels that walk. Their blocks of tokens are as long for `inner` and `outer` exchanged.

    Shared memory holds the rows of two operands and a tile of the third, a copy for each stage, the state, and the
    weights of the pairs of a block.
    """
    block_k, block_x = block(inner), min(64, block(outer))

    def fits(block_n: int, stages: int, rows: int, columns: int) -> bool:
        tiles = stages * block_n * (2 * rows + columns) + rows * columns + block_n * block_n
        return tiles * size <= memory

    widest = block(max(inner, outer))
    block_n = next((length for length in (64, 32) if fits(length, 1, widest, min(64, widest))), 16)
    stages = 2 if fits(block_n, 2, block_k, block_x) else 1
    options = {"num_warps": 8 if block_k * block_x * size > 128 * 64 * 2 else 4, "num_stages": stages}
    return count(outer, block_x), {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x, **options}


def _small_blocks_of_walk(inner: int, outer: int, size: int, memory: int) -> tuple[int, dict[str, Any]]:
    """The same where matrix units take operands from registers: blocks so small that no register is spilled."""
    block_k, block_x = block(inner), min(32, block(outer))
    widest = block(max(inner, outer))
    options = {"num_warps": 8 if widest * size >= 256 and size > 2 else 4, "num_stages": 1}
    blocks = {"BLOCK_N": 32 if widest * size <= 256 else 16, "BLOCK_K": block_k, "BLOCK_X": block_x}
    return count(outer, block_x), blocks | options


def architecture(device: torch.device) -> Architecture:
    """The architecture of a GPU; for a CPU, where Triton's interpreter runs, the smallest."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return Architecture("sm80", 99)
    properties = torch.cuda.get_device_properties(device)
    by_major = {9: "sm90"}.get(properties.major, "sm80" if properties.major < 9 else "sm100")
    name = "rocm" if torch.version.hip else by_major
    # torch's types do not know this property, which every version that we support has.
    return Architecture(name, properties.shared_memory_per_block_optin // 1024)  # type: ignore[attr-defined]


def processors(device: torch.device) -> int:
    """Processors of a GPU; on a CPU, for Triton's interpreter, a number that makes several parts of a sequence."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 16


def launch(kernel: str, programs: int, device: torch.device, constants: dict[str, Any], **arguments: Any) -> None:
    """Run `programs` programs of a kernel on `device`, which need not be the current one."""
    from .triton_kernels import KERNELS

    if programs == 0:
        return
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(device):
            KERNELS[kernel][(programs,)](**arguments, **constants)
    else:
        KERNELS[kernel][(programs,)](**arguments, **constants)


def rows(**tensors: Tensor | None) -> dict[str, Any]:
    """Tensors ``[B, H, N, ..]`` with their first three strides, as the kernels take them."""
    return {name: None if tensor is None else (tensor, *tensor.stride()[:3]) for name, tensor in tensors.items()}


def mask_rows(mask: Tensor | None) -> tuple[Tensor, int, int] | None:
    """A mask ``[B, N]`` with its strides."""
    return None if mask is None else (mask.view(torch.uint8), mask.stride(0), mask.stride(1))


def chunks_border(border: Tensor) -> tuple[Tensor, int, int, int]:
    """The sums outside of each chunk, ``[B, H, chunks, F]``, with their strides."""
    return border, border.stride(1), border.stride(2), border.stride(3)


def column_as_border(state: Tensor) -> tuple[Tensor, int, int, int]:
    """The last column of a state in the form of `chunks_border`, the same for all chunks."""
    return state[..., -1], state.stride(1), 0, state.stride(2)


def column(state: Tensor | None) -> tuple[Tensor, int, int] | None:
    """The column of a state with its strides."""
    return None if state is None else (state[..., -1], state.stride(1), state.stride(2))


def count(total: int, each: int) -> int:
    """How many parts of size `each` cover `total`."""
    return -(-total // each)


def block(width: int) -> int:
    """The block of a width: a power of two, and at least 16, which matrix products need."""
    return max(16, 1 << (width - 1).bit_length())
