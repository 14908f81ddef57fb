"""What Luna and ConvLuna are built of: attention through a memory, its block, and the model that hands it on."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache

from .base_sequence import SequenceInfo
from .configuration_luna import PROJECTIONS, LunaConfig
from .layer_attention import AttentionLayer, join_heads, refuse_long_map, split_heads
from .layer_common import make_dropout, make_norm
from .layer_filters import KeyValueFilter
from .layer_learned_memory import LearnedMemory
from .ops_pack import pack_attention, unpack_attention
from .ops_reference import softmax_attention_map
from .skeleton_model import EffAttnBlock, EffAttnModel, attention_backend
from .skeleton_outputs import EffAttnOutput


class PackUnpackAttention(AttentionLayer):
    """``Y_P = Attn(P, X, X)`` and ``Y_X = Attn(X, Y_P, Y_P)``, in O(N l hidden).

    With a single cell every token reads the same vector, which is computed once: the layer is attention pooling.
    """

    measured: ClassVar[str] = "packing"

    def __init__(self, config: LunaConfig, layer_idx: int):
        super().__init__(layer_idx)
        self.config = config
        self.num_heads = config.num_attention_heads
        self.dropout_p = float(config.attention_probs_dropout_prob)
        self.filter: KeyValueFilter | None = None
        # A single cell is read with weight one, whatever the queries and keys, so then they do not exist.
        unpacking = PROJECTIONS if config.memory_size > 1 else ("value", "output")
        self.projections = nn.ModuleDict()
        for name in PROJECTIONS if config.use_value_projection else ("query", "key", "output"):
            sides = ("pack", "unpack") if name in unpacking else ("pack",)
            for side in ("shared",) if name in config.shared_projections else sides:
                self.projections[f"{side}_{name}"] = nn.Linear(config.hidden_size, config.hidden_size)
        self.pack_log_temperature = self._log_temperature(config.pack_temperature)
        self.unpack_log_temperature = self._log_temperature(config.unpack_temperature)

    def _log_temperature(self, kind: str) -> nn.Parameter | None:
        return nn.Parameter(torch.zeros(1)) if kind == "learned" else None

    def reset(self) -> None:
        for log_temperature in (self.pack_log_temperature, self.unpack_log_temperature):
            if log_temperature is not None:
                init.zeros_(log_temperature)

    def temperature(self, side: str) -> float | torch.Tensor:
        """tau of ``"pack"`` or ``"unpack"``."""
        log_temperature = self.pack_log_temperature if side == "pack" else self.unpack_log_temperature
        if log_temperature is not None:
            return log_temperature.exp()
        head_dim = self.config.hidden_size // self.num_heads
        return head_dim**0.5 if getattr(self.config, f"{side}_temperature") == "sqrt" else 1.0

    def project(self, side: str, name: str, states: torch.Tensor) -> torch.Tensor:
        """The projection `name` of ``"pack"`` or ``"unpack"``; where there is none, the states themselves."""
        key = f"shared_{name}" if f"shared_{name}" in self.projections else f"{side}_{name}"
        return self.projections[key](states) if key in self.projections else states

    def heads(self, side: str, name: str, states: torch.Tensor) -> torch.Tensor:
        """`project` into ``[batch, heads, length, head_dim]``."""
        return split_heads(self.project(side, name, states), self.num_heads)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        sequence: SequenceInfo,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        """What the tokens read, and what was packed; with `output_attentions` each followed by its weights.

        Args:
            hidden_states: ``[batch, length, hidden]``.
            memory: ``[batch, cells, hidden]``.
            sequence: mask of real tokens.
            output_attentions: whether to build ``[batch, heads, length, cells]`` and ``[batch, heads, cells, keys]``.
        """
        packed, pack_weights = self.pack(hidden_states, memory, sequence.key_mask, output_attentions)
        read, weights = self.unpack(hidden_states, packed, output_attentions)
        return read, weights, packed, pack_weights

    def pack(
        self, hidden_states: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``Attn(P, F(X), F(X))``, ``[batch, cells, hidden]``, and its weights if asked for."""
        query = self.heads("pack", "query", memory)
        key, value = self.heads("pack", "key", hidden_states), self.heads("pack", "value", hidden_states)
        if self.filter is not None:
            key, value, mask = self.filter(key, value, mask)
        tau = self.temperature("pack")
        attended = pack_attention(query, key, value, temperature=tau, key_mask=mask, **self._options())
        weights = self._weights(query / tau, key, mask) if output_attentions else None
        return self.project("pack", "output", join_heads(attended)), weights

    def unpack(
        self, hidden_states: torch.Tensor, packed: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``Attn(X, Y_P, Y_P)``, ``[batch, length, hidden]``, and its weights if asked for."""
        if packed.shape[1] == 1:
            return self._unpack_single(hidden_states, packed, output_attentions)
        value = self.heads("unpack", "value", packed)
        query, key = self.heads("unpack", "query", hidden_states), self.heads("unpack", "key", packed)
        tau = self.temperature("unpack")
        attended = unpack_attention(query, key, value, temperature=tau, **self._options())
        weights = self._weights(query, key / tau, None) if output_attentions else None
        return self.project("unpack", "output", join_heads(attended)), weights

    def _unpack_single(
        self, hidden_states: torch.Tensor, packed: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        value = self.heads("unpack", "value", packed)
        batch, length, hidden = hidden_states.shape
        ones = value.new_ones(batch, self.num_heads, length, 1)
        if self.training and self.dropout_p > 0:
            value = torch.dropout(ones, self.dropout_p, True) @ value
        # The output projection comes before the copies to every token, of which it would make N times the work.
        read = self.project("unpack", "output", join_heads(value)).expand(batch, length, hidden)
        return read, ones if output_attentions else None

    def _options(self) -> dict[str, Any]:
        # The backend is read here and not once, because `model.set_attn_implementation` may change it.
        return {"dropout_p": self.dropout_p if self.training else 0.0, "backend": attention_backend(self.config)}

    def _weights(self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        refuse_long_map(query.shape[2], key.shape[2])
        return softmax_attention_map(query, key, key_mask=mask, scale=1.0).to(query.dtype)


class LunaBlock(EffAttnBlock):
    """An encoder block whose attention also renews the memory: ``P' = norm(P + Y_P)``; only tokens have an MLP."""

    measured: ClassVar[str] = "memory"
    attention: PackUnpackAttention

    def __init__(self, config: LunaConfig, attention: PackUnpackAttention):
        super().__init__(config, attention)
        # A norm of the last layer's memory would have no gradient unless a classifier reads it.
        is_last = attention.layer_idx == config.num_hidden_layers - 1
        unread = is_last and not self.pre_norm and config.pooling != "memory"
        self.memory_norm = nn.Identity() if unread else make_norm(config)
        self.memory_dropout = make_dropout(config, "memory_dropout_prob")

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        sequence: SequenceInfo,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The new hidden states, the new memory, and the weights of packing if asked for."""
        tokens, cells = hidden_states, memory
        if self.pre_norm:
            tokens, cells = self.attention_norm(hidden_states), self.memory_norm(memory)
        read, _, packed, pack_weights = self.attention(tokens, cells, sequence, output_attentions)
        memory = memory + self.memory_dropout(packed)
        return self.finish(hidden_states, read), memory if self.pre_norm else self.memory_norm(memory), pack_weights


class LunaEncoderModel(EffAttnModel):
    """Embeddings, blocks that hand a memory on, and a last norm of tokens and of cells if the config has one."""

    config: LunaConfig
    block_class: ClassVar[type[EffAttnBlock]] = LunaBlock

    def __init__(self, config: LunaConfig):
        super().__init__(config)
        self.memory = LearnedMemory(config.memory_size, config.hidden_size)
        read_normed = config.has_last_norm and config.pooling == "memory"
        self.memory_norm = make_norm(config) if read_normed else nn.Identity()
        self.post_init()

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
