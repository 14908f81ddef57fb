"""The learned cells that every sequence of a family with a memory starts from."""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_effattn import EffAttnConfig


class LearnedMemory(nn.Module):
    """``[memory_size, hidden]`` cells, drawn from N(0, 1) at the start; every sequence begins with the same."""

    def __init__(self, memory_size: int, hidden_size: int):
        super().__init__()
        self.cells = nn.Parameter(torch.empty(memory_size, hidden_size))

    def start_weights(self, config: EffAttnConfig) -> None:
        """Draw the cells."""
        init.normal_(self.cells)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``[batch, memory_size, hidden]``, a view, for `rows` ``[batch, ..]``.

        It takes a tensor and not a number, so that hooks find a batch: they move it, or take gradients per row of it.
        """
        return self.cells.expand(rows.shape[0], -1, -1)
