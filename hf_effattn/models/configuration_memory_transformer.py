"""Config of the memory transformer family."""

from typing import ClassVar

from .base_cache_slots import ConvState, conv_state_count
from .configuration_checks import strict_config
from .configuration_effattn import EffAttnConfig, _require
from .configuration_memory_filter import MemoryFilterFields


@strict_config
class MemoryTransformerConfig(MemoryFilterFields, EffAttnConfig):
    """A Transformer with memory tokens beside its input, or with a memory that segments hand on.

    Without `segment_length` it is the Memory Transformer (Burtsev et al. 2020, arXiv 2006.11527). With it the input is
    read segment by segment, and the memory that one segment writes is what the next one reads: the Recurrent Memory
    Transformer (Bulatov et al. 2022, arXiv 2207.06881), for input of any length.

    Args:
        memory_size: memory tokens, `m`.
        segment_length: tokens of a segment, `S`, or None to read the input as a whole. Positions are counted anew in
            every segment, so `max_position_embeddings` limits `S` and not the input. Segments are counted from a
            row's first real token.
        backprop_segments: segments through which the gradient of the memory flows, counted from a row's last segment;
            None for all of them.
        memory_filter: what stands between a segment's keys and values and the memory tokens that read them, as in
            ConvLuna: ``"none"``, ``"conv"`` (one learned kernel per head), ``"max_pool"`` or ``"avg_pool"``. A decoder
            writes a memory only with `segment_length`.
        attention_probs_dropout_prob: dropout on the attention weights.
        last_norm: it follows the memory that is written as well.
        pooling: with `segment_length` an encoder is read at its ``"memory"`` by default, since its first token has
            seen the first segment only; ``"cls"`` is refused. A decoder has a memory to read if it has segments.

    The other fields are those of `EffAttnConfig`.
    """

    model_type: ClassVar[str] = "memory_transformer"
    family_name: ClassVar[str] = "MemoryTransformer"
    formula: ClassVar[str] = (
        "softmax(Q [M; K]ᵀ / √d) [M; V], M memory tokens, carried from segment to segment of S tokens"
    )
    cost: ClassVar[str] = "O(N² d), O(N S d) in segments"
    source: ClassVar[str] = "Burtsev et al. 2020, arXiv 2006.11527; Bulatov et al. 2022, arXiv 2207.06881"
    softmax: ClassVar[bool] = True
    has_memory: ClassVar[bool] = True

    memory_size: int = 16
    segment_length: int | None = None
    backprop_segments: int | None = None

    def validate_memory(self) -> None:
        """Refuse sizes that clash and options without effect."""
        _require(self.num_hidden_layers > 0, "num_hidden_layers must be positive: without layers no memory is read")
        segments = self.segment_length is not None
        _require(
            segments or self.backprop_segments is None,
            f"backprop_segments={self.backprop_segments} needs segment_length, which is None",
        )
        _require(
            (self.segment_length or 0) <= self.max_position_embeddings,
            f"segment_length ({self.segment_length}) must not exceed max_position_embeddings "
            f"({self.max_position_embeddings})",
        )
        _require(
            self.cls_position or not segments,
            f"cls_position=False is for a [CLS] at position 0, and with segment_length={self.segment_length} every "
            "segment begins at position 0: leave cls_position=True",
        )
        if self.is_decoder and not segments:
            _require(
                self.memory_filter == "none",
                f"memory_filter={self.memory_filter!r} filters what a memory is written from, and a decoder writes "
                "none without segment_length",
            )
            _require(self.pooling != "memory", 'pooling="memory": a decoder writes no memory without segment_length')

    @property
    def cache_type(self) -> str:
        """Segments leave a state of fixed size; without them the cache keeps every key and value."""
        return "full_attention" if self.segment_length is None else "linear_attention"

    @property
    def number_of_conv_states(self) -> int:
        """States of a fixed width that transformers' caches keep per layer, see `ConvState`."""
        return conv_state_count(ConvState.TOKEN_COUNT, ConvState.MEMORY)

    @property
    def max_input_length(self) -> int | None:
        """The longest input: any, if it is read by segments."""
        return self.max_position_embeddings if self.segment_length is None else None

    @property
    def resolved_pooling(self) -> str:
        """As `EffAttnConfig.resolved_pooling`, but the memory for an encoder with segments.

        Raises:
            ValueError: if an encoder with segments is to be read at its first token.
        """
        if self.segment_length is not None and not self.is_decoder:
            if self.pooling == "cls":
                raise ValueError(
                    f'pooling="cls" reads the first token, which sees the first of its segments only with '
                    f'segment_length={self.segment_length}: use pooling="memory", "mean" or "last"'
                )
            return self.pooling or "memory"
        return super().resolved_pooling


__all__ = ["MemoryTransformerConfig"]
