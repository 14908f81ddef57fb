"""Attention through a memory, of Luna and ConvLuna: the sequence is packed into cells and unpacked from them."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .base_sequence import SequenceInfo
from .configuration_effattn import EffAttnConfig
from .configuration_luna import PROJECTIONS, LunaConfig
from .layer_attention import join_heads, refuse_long_map, split_heads
from .layer_filters import KeyValueFilter
from .ops_attention_maps import softmax_attention_map
from .ops_pack import pack_attention, unpack_attention


class PackUnpackAttention(nn.Module):
    """``Y_P = Attn(P, X, X)`` and ``Y_X = Attn(X, Y_P, Y_P)``, in O(N l hidden).

    With a single cell every token reads the same vector, which is computed once: the layer is attention pooling.

    Args:
        config: sizes, projections and temperatures.
        layer_idx: the layer's place.
        memory_filter: a filter over the keys and values that are packed, or None.
    """

    #: What `hf_effattn.diagnose` measures here.
    measured: ClassVar[str] = "packing"

    def __init__(self, config: LunaConfig, layer_idx: int, memory_filter: KeyValueFilter | None = None):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.dropout_p = float(config.attention_probs_dropout_prob)
        # A single cell is read with weight one, whatever the queries and keys, so both need no projection.
        unpacking = PROJECTIONS if config.memory_size > 1 else ("value", "output")
        self.projections = nn.ModuleDict()
        for name in PROJECTIONS if config.use_value_projection else ("query", "key", "output"):
            sides = ("pack", "unpack") if name in unpacking else ("pack",)
            for side in ("shared",) if name in config.shared_projections else sides:
                self.projections[f"{side}_{name}"] = nn.Linear(config.hidden_size, config.hidden_size)
        self.pack_log_temperature = self._log_temperature(config.pack_temperature)
        self.unpack_log_temperature = self._log_temperature(config.unpack_temperature)
        self.filter = memory_filter

    def _log_temperature(self, kind: str) -> nn.Parameter | None:
        return nn.Parameter(torch.zeros(1)) if kind == "learned" else None

    def start_weights(self, config: EffAttnConfig) -> None:
        """Start learned temperatures at one."""
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
        """The output of unpacking, its weights, the packed memory, and its weights; weights are None if not asked for.

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
        # The output projection comes before the copies to every token: behind them it would cost N times as much.
        read = self.project("unpack", "output", join_heads(value)).expand(batch, length, hidden)
        return read, ones if output_attentions else None

    def _options(self) -> dict[str, Any]:
        # The backend is read here and not once, because `model.set_attn_implementation` may change it.
        return {"dropout_p": self.dropout_p if self.training else 0.0, "backend": self.config.resolved_backend}

    def _weights(self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        refuse_long_map(query.shape[2], key.shape[2])
        return softmax_attention_map(query, key, key_mask=mask, scale=1.0).to(query.dtype)
