"""The compiled kernels as Python calls: tensors into the C struct of ``csrc/arguments.h``, and errors out of it."""

import ctypes
from functools import cache
from typing import Any

import torch

from .build import BuildError, build


_TYPES = {torch.float32: 0, torch.bfloat16: 1}
#: In the order of ``effattn::Activation``.
ACTIVATIONS = ("identity", "elu", "relu", "softplus")

DTYPES = tuple(_TYPES)


class Tensor(ctypes.Structure):
    """``effattn::Tensor``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("type", ctypes.c_int32),
    ]


class Map(ctypes.Structure):
    """``effattn::MapArguments``."""

    _fields_ = [("activation", ctypes.c_int32), *((name, ctypes.c_void_p) for name in ("weight", "bias", "gate"))]


class MapGradients(ctypes.Structure):
    """``effattn::MapGradients``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "bias", "gate")]


class Arguments(ctypes.Structure):
    """``effattn::Arguments``; a field that is not set is absent."""

    _fields_ = [
        *((name, Tensor) for name in ("query", "key", "value", "output", "grad_output")),
        *((name, Tensor) for name in ("grad_query", "grad_key", "grad_value", "scale")),
        ("key_mask", ctypes.c_void_p),
        ("mask_batch_stride", ctypes.c_int64),
        ("mask_row_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("state_in", "grad_state_in", "state_out", "grad_state_out")),
        ("map", Map),
        ("grad_map", MapGradients),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "length")),
        *((name, ctypes.c_int32) for name in ("dim", "features", "value_dim", "normalize")),
        ("eps", ctypes.c_float),
        ("factor", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]

    def set_rows(self, **tensors: torch.Tensor | None) -> None:
        """Tensors ``[B, H, N, dim]`` with unit stride along dim, or ``[B, H, N]``."""
        for name, tensor in tensors.items():
            if tensor is not None:
                stride = tensor.stride()
                setattr(self, name, Tensor(tensor.data_ptr(), stride[0], stride[1], stride[2], _TYPES[tensor.dtype]))

    def set_pointers(self, **tensors: torch.Tensor | None) -> None:
        """Contiguous tensors of float32."""
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self, name, tensor.data_ptr())

    def set_mask(self, key_mask: torch.Tensor | None) -> None:
        """The mask ``[B, N]``, bool."""
        if key_mask is not None:
            self.key_mask = key_mask.data_ptr()
            self.mask_batch_stride, self.mask_row_stride = key_mask.stride()

    def set_map(self, activation: str, **parameters: torch.Tensor | None) -> None:
        """The feature map; its parameters contiguous and in float32."""
        self.map.activation = ACTIVATIONS.index(activation)
        for name, tensor in parameters.items():
            if tensor is not None:
                setattr(self.map, name, tensor.data_ptr())

    def set_map_gradients(self, **gradients: torch.Tensor) -> None:
        """Where the gradients of the map's parameters are added up; empty for a parameter that is absent."""
        for name, tensor in gradients.items():
            if tensor.numel():
                setattr(self.grad_map, name, tensor.data_ptr())


class Field(ctypes.Structure):
    """``Field`` of ``csrc/linear_attention.cpp``: where the compiler has put a field, or the value of an enum."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("kind", ctypes.c_char),
    ]


#: The structs of ``csrc`` that are mirrored here.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "Tensor": Tensor,
    "MapArguments": Map,
    "MapGradients": MapGradients,
    "Arguments": Arguments,
}

_KINDS: dict[Any, bytes] = {
    ctypes.c_void_p: b"p",
    ctypes.c_float: b"f",
    ctypes.c_int32: b"i",
    ctypes.c_int64: b"i",
}


def layout() -> dict[str, tuple[int, int, bytes]]:
    """Offset, size and kind of every field as mirrored here, the values of enums, and the size of the whole."""
    found = {
        f"{struct}.{field[0]}": (*_place(mirror, field[0]), _KINDS.get(field[1], b"s"))
        for struct, mirror in STRUCTS.items()
        for field in mirror._fields_
    }
    names = {"Type": ("float32", "bfloat16"), "Activation": ACTIVATIONS}
    enums = {f"{enum}.{name}": (value, 4, b"e") for enum, of in names.items() for value, name in enumerate(of)}
    return found | enums | {"": (ctypes.sizeof(Arguments), 0, b"\0")}


def _place(struct: type[ctypes.Structure], name: str) -> tuple[int, int]:
    return getattr(struct, name).offset, getattr(struct, name).size


def compiled_layout(loaded: ctypes.CDLL) -> dict[str, tuple[int, int, bytes]]:
    """The same as `layout`, as the compiled library states it."""
    loaded.effattn_layout.restype = ctypes.POINTER(Field)
    fields, found, end = loaded.effattn_layout(), {}, 0
    while fields[end].name is not None:
        struct, _, name = fields[end].name.decode().partition(".")
        # ``kFloat32`` is the enum's name of float32.
        name = name[1:].lower() if fields[end].kind == b"e" else name
        found[f"{struct}.{name}"] = (fields[end].offset, fields[end].size, fields[end].kind)
        end += 1
    return found | {"": (fields[end].offset, fields[end].size, fields[end].kind)}


@cache
def library() -> ctypes.CDLL:
    """The compiled library, built if need be.

    Raises:
        BuildError: it cannot be built or loaded.
    """
    path = build()
    try:
        loaded = ctypes.CDLL(str(path))
        theirs, ours = compiled_layout(loaded), layout()
    except (OSError, AttributeError) as error:
        raise BuildError(
            f"{path} cannot be loaded: {error}; remove it to have it compiled anew, by another CXX if it comes to "
            "the same, or set HF_EFFATTN_CACHE to a folder from which libraries may be loaded"
        ) from error
    if differing := sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)):
        raise BuildError(f"{path} has another interface than this version of hf_effattn, {differing}: install it anew")
    loaded.effattn_block_count.restype = ctypes.c_int64
    loaded.effattn_block_count.argtypes = [ctypes.c_int64]
    return loaded


def run_kernel(function: str, arguments: Arguments) -> None:
    """Run a kernel with torch's number of threads.

    Raises:
        MemoryError: its scratch memory does not fit.
    """
    arguments.threads = torch.get_num_threads()
    if _function(function)(ctypes.byref(arguments)):
        raise MemoryError(f"the CPU kernel {function} found no memory for its scratch buffers")


@cache
def _function(name: str) -> Any:
    function = getattr(library(), name)
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    return function


def block_count(length: int) -> int:
    """Into how many parts the bidirectional operators divide a sequence."""
    return int(library().effattn_block_count(length))
