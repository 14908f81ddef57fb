"""The memory transformer without a head: its input as a whole, in segments, or going on from a cache."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers.cache_utils import Cache

from .base_compat import get_conv_state
from .base_sequence import SequenceInfo, readable
from .cache_segments import SegmentState, compact, filled, restore, unrolled
from .configuration_memory_transformer import MemoryTransformerConfig
from .layer_learned_memory import LearnedMemory
from .layer_memory_transformer import MemoryBlock, Stretch
from .skeleton_model import EffAttnBlock, EffAttnModel
from .skeleton_outputs import EffAttnOutput


@dataclass
class Passed:
    """What one pass through all layers leaves; the lists have an entry per layer."""

    states: torch.Tensor
    memory: torch.Tensor | None
    hidden: list[torch.Tensor]
    stretches: list[Stretch]
    weights: list[torch.Tensor]
    memory_weights: list[torch.Tensor]


class MemoryEncoderModel(EffAttnModel):
    """Embeddings, blocks, a last norm if the config has one, and the memory that they read and write.

    An encoder's memory tokens go through the layers beside the tokens. A decoder's can not, since what they have read
    would be known to earlier tokens: they go through the layers once before a segment (the tokens read them), and,
    when another segment follows, once more behind it (they read the tokens).
    """

    config: MemoryTransformerConfig
    block_class: ClassVar[type[EffAttnBlock]] = MemoryBlock

    def __init__(self, config: MemoryTransformerConfig):
        super().__init__(config)
        self.memory = LearnedMemory(config.memory_size, config.hidden_size)
        self.post_init()

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
        before: list[list[Stretch]] | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        memory: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> Passed:
        """All layers over `states`, which read what is `before` them in every layer, and `memory` beside them."""
        passed = Passed(states, memory, [], [], [], [])
        for index, layer in enumerate(self.layers):
            read = [] if before is None else before[index]
            flat = [tensor for part in read for tensor in (part.key, part.value, part.mask)]
            states, key, value, weights, cells, cell_weights = layer(
                passed.states, passed.memory, mask, causal, output_attentions, *flat, cache=cache
            )
            passed.states, passed.memory = states, cells
            passed.hidden.append(states)
            passed.stretches.append(Stretch(key, value, mask))
            if output_attentions:
                passed.weights.append(weights)
                passed.memory_weights.append(cell_weights)
        if passed.memory is not None:
            # Normed, so that what a segment writes is of the size of what the next one expects to read.
            passed.memory = self.norm(passed.memory)
        return passed

    def _read(self, memory: torch.Tensor) -> list[Stretch]:
        """The keys and values of a decoder's memory tokens, which see each other only."""
        return self._pass(memory).stretches

    def _write(self, memory: torch.Tensor, read: list[Stretch], tokens: list[Stretch]) -> torch.Tensor:
        """The memory ``[B, m, hidden]`` that a decoder leaves after a segment."""
        blocks: list[MemoryBlock] = list(self.layers)  # type: ignore[arg-type]
        filtered = [block.attention.filtered(part) for block, part in zip(blocks, tokens, strict=True)]
        before = [list(pair) for pair in zip(read, filtered, strict=True)]
        return self.norm(self._pass(memory, before).states)

    def _whole(self, states, sequence: SequenceInfo, cache: Cache | None, output_attentions: bool) -> Passed:
        batch = states.shape[0]
        if not self.config.is_decoder:
            memory = self.memory(states)
            return self._pass(states, None, sequence.key_mask, memory=memory, output_attentions=output_attentions)
        # All rows read the same, and decoding reads it again in every step; only dropout tells the rows apart.
        before = [[part.for_rows(batch)] for part in self._read(self.memory(states if self.training else states[:1]))]
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
            whole, added = filled(states, int(self.config.segment_length or 0))
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
                    passed.memory = self._write(memory, read, passed.stretches)
            else:
                passed = self._pass(tokens, None, mask, memory=memory)
            hidden.append(passed.hidden)
            if passed.memory is not None:
                if mask is not None:
                    # With the layers on several devices the memory comes back from the last of them.
                    begun, memory = (part.to(passed.memory.device) for part in (mask[:, :1, None], memory))
                    passed.memory = torch.where(begun, passed.memory, memory)
                memory = passed.memory
        by_layer = [torch.cat(parts, dim=1) for parts in zip(*hidden, strict=True)]
        return by_layer, memory if keep_last else None

    def _cut(self, memory: torch.Tensor, index: int, segments: torch.Tensor) -> torch.Tensor:
        """The memory before segment `index`, without its gradient where a span of segments ends for a row."""
        span = self.config.backprop_segments
        if index == 0 or span is None or not torch.is_grad_enabled():
            return memory
        ends = (segments - index) % span == 0
        return torch.where(ends[:, None, None], memory.detach(), memory)

    def _go_on(
        self, states: torch.Tensor, counts: torch.Tensor, sequence: SequenceInfo, cache: Cache
    ) -> list[torch.Tensor]:
        """A decoder's states after every layer for the next `counts` tokens of each row, `states` ``[B, N, hidden]``.

        Rows may stand at different places of their segments, so every round takes of each row what fits into its own.
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
            before = [list(pair) for pair in zip(state.read, state.held(), strict=True)]
            passed = self._pass(tokens, before, mask, True)
            hidden = [into.scatter(1, place, part) for into, part in zip(hidden, passed.hidden, strict=True)]
            state, done = state.extended(passed.stretches, taken), done + taken
        state.store(cache, sequence.token_counts)
        return [part[:, :total] for part in hidden]

    def _renewed(self, state: SegmentState, full: torch.Tensor) -> SegmentState:
        """The state with a new segment begun in the rows whose segment is `full`."""
        if readable(full) and not bool(full.any()):
            return state
        written = self._write(state.memory, state.read, state.held())
        memory = torch.where(full[:, None, None], written, state.memory)
        return SegmentState(memory, self._read(memory), state.tokens, torch.where(full, 0, state.phase))
