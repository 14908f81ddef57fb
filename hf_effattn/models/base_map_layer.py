"""The last layer of a feature map, as a value that an operator can run itself.

A backend that takes it (`Backend.fuses_maps`) never holds the features of a whole sequence: they are computed chunk
by chunk, and once more in the backward pass. For every other backend `linear_attention` calls the layer first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional


#: The activations that a fused map may have, by name.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "elu": lambda x: functional.elu(x) + 1,
    "relu": functional.relu,
    "softplus": functional.softplus,
}


@dataclass(frozen=True)
class MapLayer:
    """``phi(x) = act(x W + b) * sigmoid(x G)``, each of `W`, `b` and `G` if given, for every head its own.

    Attributes:
        activation: a name of `ACTIVATIONS`; ``"elu"`` is ``elu(x) + 1``.
        weight: `W`, ``[H, d, F]``.
        bias: `b`, ``[H, 1, F]``, only with a weight.
        gate: `G`, ``[H, d, F]``, only with a weight.

    Raises:
        ValueError: an unknown activation, a bias or gate without a weight, or shapes that do not fit.
    """

    activation: str
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    gate: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}; choose from {sorted(ACTIVATIONS)}")
        if self.weight is None:
            if self.bias is not None or self.gate is not None:
                raise ValueError("a map without a weight has neither bias nor gate")
            return
        heads, dim, features = self.weight.shape
        expected = (("bias", self.bias, (heads, 1, features)), ("gate", self.gate, (heads, dim, features)))
        for name, tensor, shape in expected:
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"the {name} of this map must be {list(shape)}, got {list(tensor.shape)}")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``[B, H, N, F]`` of ``[B, H, N, d]``; `F` is `d` without a weight. O(N d F)."""
        mapped = x
        if self.weight is not None:
            mapped = x @ self.weight
        if self.bias is not None:
            mapped = mapped + self.bias
        mapped = ACTIVATIONS[self.activation](mapped)
        return mapped if self.gate is None else mapped * torch.sigmoid(x @ self.gate)

    def tensors(self) -> dict[str, torch.Tensor | None]:
        """The parameters by name, None where there is none."""
        return {"weight": self.weight, "bias": self.bias, "gate": self.gate}

    def num_features(self, dim: int) -> int:
        """`F` for heads of width `dim`."""
        return dim if self.weight is None else self.weight.shape[-1]
