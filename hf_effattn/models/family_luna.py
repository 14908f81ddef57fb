"""The block of Luna and ConvLuna, and their model: the layers hand a memory on."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers.cache_utils import Cache

from .base_sequence import SequenceInfo
from .configuration_luna import LunaConfig
from .layer_filters import KeyValueFilter
from .layer_learned_memory import LearnedMemory
from .layer_luna import PackUnpackAttention
from .layer_norms import make_dropout, make_norm
from .skeleton_block import ResidualBlock
from .skeleton_model import EffAttnModel
from .skeleton_outputs import EffAttnOutput


class LunaBlock(ResidualBlock[PackUnpackAttention]):
    """A block whose attention also renews the memory, in a branch of its own: ``P' = norm(P + Y_P)``, without MLP."""

    measured: ClassVar[str] = "memory"

    def __init__(self, config: LunaConfig, attention: PackUnpackAttention):
        super().__init__(config, attention)
        # A norm of the last layer's memory would have no gradient unless a classifier reads it.
        is_last = attention.layer_idx == config.num_hidden_layers - 1
        unread = is_last and not self.pre_norm and config.pooling != "memory"
        self.memory_norm = nn.Identity() if unread else make_norm(config)
        self.memory_dropout = make_dropout(config, "memory_dropout_prob")

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        sequence: SequenceInfo,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The new hidden states, the new memory, and the weights of packing if asked for."""
        tokens = self.branch_input(hidden_states, self.attention_norm)
        cells = self.branch_input(memory, self.memory_norm)
        read, _, packed, pack_weights = self.attention(tokens, cells, sequence, output_attentions)
        memory = self.branch_sum(memory, self.memory_dropout(packed), self.memory_norm)
        return self.add_branches(hidden_states, read), memory, pack_weights


class LunaBaseModel(EffAttnModel):
    """Embeddings, blocks that hand a memory on, and a last norm of tokens and of cells if the config has one."""

    config: LunaConfig

    def build_block(self, config: LunaConfig, layer_idx: int) -> nn.Module:
        return LunaBlock(config, PackUnpackAttention(config, layer_idx, self.build_filter(config)))

    def build_filter(self, config: Any) -> KeyValueFilter | None:
        """The filter over the keys and values that a layer packs."""
        return None

    def build_extra(self, config: LunaConfig) -> None:
        self.memory = LearnedMemory(config.memory_size, config.hidden_size)
        normed = config.has_last_norm and config.pooling == "memory"
        self.memory_norm = make_norm(config) if normed else nn.Identity()

    def encode(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> EffAttnOutput:
        memory = self.memory(hidden_states)
        pack_attentions = []
        for layer in self.layers:
            hidden_states, memory, weights = layer(hidden_states, memory, sequence, output_attentions)
            pack_attentions.append(weights)
        return EffAttnOutput(
            last_hidden_state=self.norm(hidden_states),
            memory=self.memory_norm(memory),
            pack_attentions=tuple(pack_attentions) if output_attentions else None,
        )
