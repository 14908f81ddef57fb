"""One operator problem: its sizes, its inputs, and the orders of dimensions in which libraries take them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch


FORWARD = "forward"
TRAINING = "forward+backward"
MODES = (FORWARD, TRAINING)

ELU = "elu"
GLU = "glu"
IDENTITY = "identity"


@dataclass(frozen=True)
class Problem:
    """What an operator has to compute.

    Attributes:
        length: tokens.
        causal: whether a query sees only the past.
        feature_map: ``"elu"`` (elu + 1), ``"glu"`` (trained) or ``"identity"`` (SimpleTRON, without denominator).
        features: features per head.
        dtype: ``"float32"`` or ``"bfloat16"``.
        batch: rows.
        heads: heads.
        dim: width of a head.
    """

    length: int
    causal: bool = False
    feature_map: str = ELU
    features: int = 64
    dtype: str = "float32"
    batch: int = 1
    heads: int = 8
    dim: int = 64

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def normalize(self) -> bool:
        """Whether there is a denominator."""
        return self.feature_map != IDENTITY

    def at_length(self, length: int) -> "Problem":
        """The same problem with another length."""
        return dataclasses.replace(self, length=length)

    def inputs(self) -> list[torch.Tensor]:
        """Query, key, value and the gradient of the output, ``[batch, heads, length, dim]``; always the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.heads, self.length, self.dim)
        return [torch.randn(shape, generator=generator).to(self.torch_dtype) for _ in range(4)]


@dataclass(frozen=True)
class Layout:
    """In which order a library takes what we call ``[batch, heads, length, dim]``.

    The timed tensors are made in this order beforehand, so that nobody pays for the habits of somebody else.

    Attributes:
        pack: query, key and value (or their gradients) to the tensors that the library takes.
        output: our output (or its gradient) to the library's.
    """

    pack: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
    output: Callable[[torch.Tensor], torch.Tensor]


def _each(reorder: Callable[[torch.Tensor], torch.Tensor]) -> Layout:
    return Layout(pack=lambda q, k, v: (reorder(q), reorder(k), reorder(v)), output=reorder)


def _tokens(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2).contiguous()


def _merged(tensor: torch.Tensor) -> torch.Tensor:
    return _tokens(tensor).flatten(2)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(0, 1)


#: ``[batch, heads, length, dim]``.
HEADS = _each(torch.Tensor.contiguous)
#: ``[batch, length, heads, dim]``.
TOKENS = _each(_tokens)
#: ``[batch, length, heads * dim]``.
MERGED = _each(_merged)
#: Query, key and value in one tensor ``[batch, length, 3 * heads * dim]``.
FUSED = Layout(pack=lambda q, k, v: (torch.cat([_merged(part) for part in (q, k, v)], dim=-1),), output=_merged)
#: ``[batch * heads, length, dim]``, where the query is the key too.
SHARED = Layout(pack=lambda q, k, v: (_rows(q), _rows(v)), output=_rows)
