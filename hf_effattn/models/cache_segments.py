"""Reading a batch segment by segment: rows without gaps, and the state of a decoder inside a segment."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from .base_cache_slots import ConvState
from .base_compat import get_conv_state
from .base_key_values import KeyValues
from .cache_states import load_state, store_state


def unrolled(count: int) -> int:
    """The number of rounds of a loop over `count` segments; rounds beyond `count` must read and change nothing.

    A compiled graph has the loop written out. Rounded up to a power of two, the inputs of all lengths share a few
    graphs, at the price of up to twice the work.
    """
    if not _in_shared_graph():
        return count
    rounded = 1
    while rounded < count:
        rounded *= 2
    return rounded


def pad_to_unrolled(states: torch.Tensor, length: int) -> tuple[torch.Tensor, bool]:
    """``[B, N, hidden]`` padded to the tokens of `unrolled` segments of `length`, and whether it had to be padded.

    Raises:
        ValueError: an export with a length that is to vary.
    """
    total = states.shape[1]
    if torch.compiler.is_exporting() and isinstance(total, torch.SymInt):
        raise ValueError(
            f"segment_length={length} gives as many segments as the input has, and an exported graph has a fixed "
            "number: export with inputs of one length, to which others are padded, or with segment_length=None"
        )
    segments = unrolled(-(-total // length))
    if segments == 1 or not _in_shared_graph():
        return states, False
    return torch.nn.functional.pad(states, (0, 0, 0, segments * length - total)), True


def _in_shared_graph() -> bool:
    """Whether a graph for inputs of several lengths is being compiled; an exported graph is for one length."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def compact(states: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``[B, N, hidden]`` with the real tokens of every row in front, in order, and the column that each came from."""
    if mask is None:
        return states, None
    # A stable sort by the mask, in the sums that exported graphs have an operator for.
    real, padding = mask.long().cumsum(1), (~mask).long().cumsum(1)
    place = torch.where(mask, real, real[:, -1:] + padding) - 1
    column = torch.arange(mask.shape[1], device=mask.device).expand_as(place)
    order = torch.zeros_like(place).scatter(1, place, column)
    return states.gather(1, order[:, :, None].expand_as(states)), order


def restore(states: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """The inverse of `compact`."""
    if order is None:
        return states
    return torch.zeros_like(states).scatter(1, order[:, :, None].expand_as(states), states)


@dataclass(frozen=True)
class SegmentState:
    """A decoder inside a segment: the memory, its keys and values, and those of the segment's tokens so far.

    Attributes:
        memory: ``[B, m, hidden]``, what the segment reads.
        read: per layer the memory's keys and values, ``[B, H, m, D]``.
        tokens: per layer ``[B, H, S, D]``, of which the first `phase` of a row are in use.
        phase: ``[B]``, tokens of the segment that every row has read: 0 to `S`.
    """

    memory: torch.Tensor
    read: list[KeyValues]
    tokens: list[KeyValues]
    phase: torch.Tensor

    @classmethod
    def empty(cls, memory: torch.Tensor, read: list[KeyValues], length: int) -> "SegmentState":
        """The state at the start of a segment of `length` tokens."""
        batch, heads, _, dim = read[0].key.shape
        nothing = read[0].key.new_zeros(batch, heads, length, dim)
        phase = torch.zeros(batch, dtype=torch.long, device=memory.device)
        return cls(memory, read, [KeyValues(nothing, nothing)] * len(read), phase)

    @classmethod
    def load(cls, cache: Cache, num_layers: int, memory_size: int, past: torch.Tensor, length: int) -> "SegmentState":
        """The state that `store` kept, for rows that have read `past` real tokens, ``[B]``."""
        memory = get_conv_state(cache, 0, ConvState.MEMORY)
        if memory is None:
            raise ValueError("the cache counts tokens but holds no memory; another model filled it")
        read, tokens = [], []
        for index in range(num_layers):
            state = load_state(cache, index)
            if state is None:
                raise ValueError(f"the cache holds a memory but no state of layer {index}; another model filled it")
            key, value = state.chunk(2, dim=-1)
            read.append(KeyValues(key[:, :, :memory_size], value[:, :, :memory_size]))
            tokens.append(KeyValues(key[:, :, memory_size:], value[:, :, memory_size:]))
        # A full segment ends only when a token of the next one comes.
        phase = torch.where(past > 0, (past - 1) % length + 1, 0)
        return cls(memory.transpose(1, 2).clone(), read, tokens, phase)

    def store(self, cache: Cache, token_counts: torch.Tensor) -> None:
        """Keep the state in a cache, whose size does not depend on how much was read."""
        cache.update_conv_state(self.memory.transpose(1, 2), 0, ConvState.MEMORY)
        for index, (read, tokens) in enumerate(zip(self.read, self.tokens, strict=True)):
            key, value = torch.cat([read.key, tokens.key], dim=2), torch.cat([read.value, tokens.value], dim=2)
            store_state(cache, index, torch.cat([key, value], dim=-1), token_counts)

    def held(self) -> list[KeyValues]:
        """`tokens` with the mask of those in use."""
        slots = torch.arange(self.tokens[0].key.shape[2], device=self.phase.device)
        mask = slots < self.phase[:, None]
        return [KeyValues(part.key, part.value, mask) for part in self.tokens]

    def extended(self, new: list[KeyValues], taken: torch.Tensor) -> "SegmentState":
        """The state after the first `taken` tokens ``[B]`` of each row of `new` have been read."""
        length, width = self.tokens[0].key.shape[2], new[0].key.shape[2]
        column = torch.arange(width, device=taken.device)
        # Columns that were not taken go to a slot behind the last one, which is cut off.
        slot = torch.where(column < taken[:, None], self.phase[:, None] + column, length)[:, None, :, None]

        def placed(held: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
            roomy = torch.nn.functional.pad(held, (0, 0, 0, 1))
            return roomy.scatter(2, slot.expand_as(added), added)[:, :, :length]

        pairs = zip(self.tokens, new, strict=True)
        tokens = [KeyValues(placed(old.key, add.key), placed(old.value, add.value)) for old, add in pairs]
        return SegmentState(self.memory, self.read, tokens, self.phase + taken)
