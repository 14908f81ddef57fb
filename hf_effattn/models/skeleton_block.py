"""Blocks: attention and MLP, each in a residual branch."""

from typing import Generic, TypeVar

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache

from .base_compat import CheckpointedLayer
from .base_sequence import SequenceInfo
from .configuration_effattn import EffAttnConfig
from .layer_attention import SelfAttention
from .layer_norms import make_dropout, make_norm


#: The attention that a kind of block has.
Attention = TypeVar("Attention")


class MLP(nn.Module):
    """``W_2 act(W_1 x)``, with dropout after both maps."""

    def __init__(self, config: EffAttnConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = self.dropout(self.activation(self.up(hidden_states)))
        output: torch.Tensor = self.dropout(self.down(inner))
        return output


class ResidualBlock(CheckpointedLayer, Generic[Attention]):
    """What all blocks have: an attention, an MLP, their norms, and the sums of the residual branches.

    A branch computes ``x + f(norm(x))`` with ``norm_position="pre"`` and ``norm(x + f(x))`` with ``"post"``. With
    `block_skip` the block's input `x_0` is added to the sum of the MLP's branch as well: ``x_1 + f(norm(x_1)) + x_0``
    or ``norm(x_1 + f(x_1) + x_0)``, where `x_1` is the output of the attention's branch.

    A block adds a `forward` with the signature of its attention. The branches are methods and not modules, because
    the parameters of a checkpoint are named after the block: ``mlp.up.weight`` beside ``mlp_norm.weight``.
    """

    def __init__(self, config: EffAttnConfig, attention: Attention):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.block_skip = config.block_skip
        self.attention_norm = make_norm(config)
        self.attention = attention
        self.dropout = make_dropout(config, "attention_output_dropout_prob")
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)

    def branch_input(self, states: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """What a branch reads: ``norm(x)``, or with ``"post"`` `x` itself."""
        return norm(states) if self.pre_norm else states

    def branch_sum(
        self, states: torch.Tensor, update: torch.Tensor, norm: nn.Module, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The output of a branch: ``x + update``, and ``+ skip`` if there is one; with ``"post"`` the norm of it."""
        total = states + update
        if skip is not None:
            total = total + skip
        return total if self.pre_norm else norm(total)

    def add_branches(self, hidden_states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add the attention's output to the block's input, then apply the MLP's branch."""
        between = self.branch_sum(hidden_states, self.dropout(attended), self.attention_norm)
        update = self.mlp(self.branch_input(between, self.mlp_norm))
        return self.branch_sum(between, update, self.mlp_norm, hidden_states if self.block_skip else None)


class EffAttnBlock(ResidualBlock[SelfAttention]):
    """The block of a family whose attention reads the sequence itself."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> torch.Tensor:
        """``[batch, length, hidden]`` to the same, see `ResidualBlock` and `SelfAttention`."""
        read = self.branch_input(hidden_states, self.attention_norm)
        attended, _ = self.attention(read, sequence, cache=cache, output_attentions=output_attentions)
        return self.add_branches(hidden_states, attended)
