"""The memory transformer's block, and its model: over its input as a whole, in segments, or going on from a cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from .base_compat import get_conv_state
from .base_key_values import KeyValues, repeat_rows
from .base_sequence import SequenceInfo, readable
from .cache_segments import SegmentState, compact, pad_to_unrolled, restore, unrolled
from .configuration_memory_transformer import MemoryTransformerConfig
from .layer_learned_memory import LearnedMemory
from .layer_memory_transformer import MemoryAttention
from .skeleton_block import ResidualBlock
from .skeleton_model import EffAttnModel
from .skeleton_outputs import EffAttnOutput


class MemoryBlockOutput(NamedTuple):
    """What a `MemoryBlock` gives.

    Attributes:
        states: the tokens after the block, ``[B, N, hidden]``.
        key_values: the tokens' keys and values in this layer.
        weights: the tokens' attention weights if asked for.
        memory: the memory tokens after the block, ``[B, m, hidden]``, or None without any.
        memory_weights: the memory tokens' attention weights if asked for.
    """

    states: torch.Tensor
    key_values: KeyValues
    weights: torch.Tensor | None
    memory: torch.Tensor | None
    memory_weights: torch.Tensor | None


class MemoryBlock(ResidualBlock[MemoryAttention]):
    """A block over tokens, and over memory tokens beside them if there are any."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        before: Sequence[KeyValues] = (),
        mask: torch.Tensor | None = None,
        causal: bool = False,
        memory: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> MemoryBlockOutput:
        """See `MemoryAttention.forward` for the arguments."""
        tokens = self.branch_input(hidden_states, self.attention_norm)
        cells = None if memory is None else self.branch_input(memory, self.attention_norm)
        of_tokens, of_memory = self.attention(tokens, before, mask, causal, cells, cache, output_attentions)
        states = self.add_branches(hidden_states, of_tokens.states)
        if memory is None:
            return MemoryBlockOutput(states, of_tokens.key_values, of_tokens.weights, None, None)
        memory = self.add_branches(memory, of_memory.states)
        return MemoryBlockOutput(states, of_tokens.key_values, of_tokens.weights, memory, of_memory.weights)


@dataclass
class PassOutput:
    """What one pass through all layers gives; the lists have an entry per layer, those of weights if asked for."""

    memory: torch.Tensor | None
    hidden: list[torch.Tensor] = field(default_factory=list)
    key_values: list[KeyValues] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    memory_weights: list[torch.Tensor] = field(default_factory=list)


class MemoryBaseModel(EffAttnModel):
    """Embeddings, blocks, a last norm if the config has one, and the memory that they read and write.

    An encoder's memory tokens go through the layers beside the tokens. In a decoder, earlier tokens would then read
    later ones through them. There they go through the layers once before a segment, and the tokens read them; if
    another segment follows, they go through once more behind it, and read the tokens.
    """

    measured: ClassVar[str] = "memory"
    config: MemoryTransformerConfig

    def build_block(self, config: MemoryTransformerConfig, layer_idx: int) -> nn.Module:
        return MemoryBlock(config, MemoryAttention(config, layer_idx))

    def build_extra(self, config: MemoryTransformerConfig) -> None:
        self.memory = LearnedMemory(config.memory_size, config.hidden_size)

    def encode(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> EffAttnOutput:
        if self.config.segment_length is None:
            passed = self._whole(hidden_states, sequence, cache, output_attentions)
            memory, hidden = passed.memory, passed.hidden
        else:
            if output_attentions:
                raise ValueError(
                    "output_attentions=True gives maps of the whole input, which segment_length="
                    f"{self.config.segment_length} never attends to at once: load the model with segment_length=None"
                )
            hidden, memory = self._segments(hidden_states, sequence, cache)
        last = self.norm(hidden[-1])
        recorded = (hidden_states, *hidden[:-1], last) if output_hidden_states else None
        outputs = EffAttnOutput(last_hidden_state=last, memory=memory, hidden_states=recorded)
        if output_attentions:
            outputs.attentions = tuple(passed.weights)
            outputs.pack_attentions = None if passed.memory is None else tuple(passed.memory_weights)
        return outputs

    def _positions(self, position_ids: torch.Tensor | None, sequence: SequenceInfo) -> torch.Tensor:
        position_ids = super()._positions(position_ids, sequence)
        length = self.config.segment_length
        return position_ids if length is None else position_ids % length

    def _map_keys(self, length: int) -> int:
        return self.config.memory_size + length

    def _pass(
        self,
        states: torch.Tensor,
        before: Sequence[Sequence[KeyValues]] | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        memory: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> PassOutput:
        """Run all layers over `states`, which read the keys and values `before` them, and `memory` beside them."""
        passed = PassOutput(memory)
        for index, layer in enumerate(self.layers):
            read = () if before is None else before[index]
            # The cache by name: gradient checkpointing looks for it there.
            output = layer(states, read, mask, causal, passed.memory, cache=cache, output_attentions=output_attentions)
            states, passed.memory = output.states, output.memory
            passed.hidden.append(states)
            passed.key_values.append(output.key_values)
            if output.weights is not None:
                passed.weights.append(output.weights)
            if output.memory_weights is not None:
                passed.memory_weights.append(output.memory_weights)
        if passed.memory is not None:
            # Normed, so that the memory that a segment writes has the size that the next segment reads.
            passed.memory = self.norm(passed.memory)
        return passed

    def _read(self, memory: torch.Tensor) -> list[KeyValues]:
        """The keys and values of a decoder's memory tokens, which see each other only."""
        return self._pass(memory).key_values

    def _write(self, memory: torch.Tensor, read: list[KeyValues], tokens: list[KeyValues]) -> torch.Tensor:
        """The memory ``[B, m, hidden]`` of a decoder behind a segment."""
        attentions = [cast(MemoryAttention, layer.attention) for layer in self.layers]
        filtered = [attention.filtered(part) for attention, part in zip(attentions, tokens, strict=True)]
        before = list(zip(read, filtered, strict=True))
        written: torch.Tensor = self.norm(self._pass(memory, before).hidden[-1])
        return written

    def _whole(
        self, states: torch.Tensor, sequence: SequenceInfo, cache: Cache | None, output_attentions: bool
    ) -> PassOutput:
        batch = states.shape[0]
        if not self.config.is_decoder:
            memory = self.memory(states)
            return self._pass(states, None, sequence.key_mask, memory=memory, output_attentions=output_attentions)
        # All rows read the same, and decoding reads it again in every step; only dropout tells the rows apart.
        read = self._read(self.memory(states if self.training else states[:1]))
        before = [[repeat_rows(part, batch)] for part in read]
        return self._pass(states, before, sequence.attention_mask, True, None, cache, output_attentions)

    def _segments(
        self, states: torch.Tensor, sequence: SequenceInfo, cache: Cache | None
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """The states after every layer, and the memory after the last segment if it was written."""
        states, order = compact(states, sequence.key_mask)
        counts = torch.full_like(states[:, 0, 0], states.shape[1], dtype=torch.long)
        if sequence.key_mask is not None:
            counts = sequence.key_mask.sum(1)
        if cache is None:
            whole, added = pad_to_unrolled(states, int(self.config.segment_length or 0))
            parts, memory = self._all_segments(whole, counts, added or order is not None)
            parts = [part[:, : states.shape[1]] for part in parts]
        else:
            parts, memory = self._go_on(states, counts, sequence, cache), None
        return [restore(part, order) for part in parts], memory

    def _all_segments(
        self, states: torch.Tensor, counts: torch.Tensor, ragged: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        length, total = int(self.config.segment_length or 0), states.shape[1]
        keep_last = not self.config.is_decoder or self.config.pooling == "memory"
        memory = self.memory(states)
        hidden = []
        for index, tokens in enumerate(states.split(length, dim=1)):
            column = torch.arange(index * length, index * length + tokens.shape[1], device=states.device)
            mask = column < counts[:, None] if ragged else None
            memory = self._cut(memory, index, -(-counts // length))
            if self.config.is_decoder:
                read = self._read(memory)
                passed = self._pass(tokens, [[part] for part in read], mask, True)
                if (index + 1) * length < total or keep_last:
                    passed.memory = self._write(memory, read, passed.key_values)
            else:
                passed = self._pass(tokens, None, mask, memory=memory)
            hidden.append(passed.hidden)
            if passed.memory is not None:
                if mask is not None:
                    # With the layers on several devices the memory comes from the last of them.
                    begun, memory = (part.to(passed.memory.device) for part in (mask[:, :1, None], memory))
                    passed.memory = torch.where(begun, passed.memory, memory)
                memory = passed.memory
        by_layer = [torch.cat(parts, dim=1) for parts in zip(*hidden, strict=True)]
        return by_layer, memory if keep_last else None

    def _cut(self, memory: torch.Tensor, index: int, segments: torch.Tensor) -> torch.Tensor:
        """The memory before segment `index`, detached in rows where a span of `backprop_segments` ends."""
        span = self.config.backprop_segments
        if index == 0 or span is None or not torch.is_grad_enabled():
            return memory
        ends = (segments - index) % span == 0
        return torch.where(ends[:, None, None], memory.detach(), memory)

    def _go_on(
        self, states: torch.Tensor, counts: torch.Tensor, sequence: SequenceInfo, cache: Cache
    ) -> list[torch.Tensor]:
        """A decoder's states after every layer for the next `counts` tokens of each row, `states` ``[B, N, hidden]``.

        Rows may be at different places of their segments, so a round reads of each row the tokens that fit into its
        segment.
        """
        if self.config.backprop_segments is not None and torch.is_grad_enabled():
            raise ValueError(
                f"backprop_segments={self.config.backprop_segments} is counted from the last segment, which is not "
                "known while a cache can be continued: pass use_cache=False, or wrap the call in torch.no_grad()"
            )
        length, total = int(self.config.segment_length or 0), states.shape[1]
        past = (sequence.total_counts[:, 0] - counts).expand(states.shape[0])
        fresh = get_conv_state(cache, 0) is None
        if fresh:
            memory = self.memory(states)
            state = SegmentState.empty(memory, self._read(memory), length)
        else:
            state = SegmentState.load(cache, len(self.layers), self.config.memory_size, past, length)
        hidden = [states.new_zeros(states.shape[0], total + 1, states.shape[2]) for _ in self.layers]
        done = torch.zeros_like(counts)
        rounds = unrolled(-(-total // length) if fresh else 1 - (1 - total) // length)
        column = torch.arange(min(length, total), device=states.device)
        for index in range(rounds):
            if index > 0 or not fresh:
                state = self._renewed(state, (state.phase == length) & (done < counts))
            taken = torch.minimum(length - state.phase, counts - done)
            mask = column < taken[:, None]
            place = torch.where(mask, done[:, None] + column, total)[:, :, None].expand(-1, -1, states.shape[2])
            tokens = states.gather(1, place.clamp(max=total - 1))
            before = list(zip(state.read, state.held(), strict=True))
            passed = self._pass(tokens, before, mask, True)
            hidden = [into.scatter(1, place, part) for into, part in zip(hidden, passed.hidden, strict=True)]
            state, done = state.extended(passed.key_values, taken), done + taken
        state.store(cache, sequence.token_counts)
        return [part[:, :total] for part in hidden]

    def _renewed(self, state: SegmentState, full: torch.Tensor) -> SegmentState:
        """The state with a new segment in the rows whose segment is `full`."""
        if readable(full) and not bool(full.any()):
            return state
        written = self._write(state.memory, state.read, state.held())
        memory = torch.where(full[:, None, None], written, state.memory)
        return SegmentState(memory, self._read(memory), state.tokens, torch.where(full, 0, state.phase))
