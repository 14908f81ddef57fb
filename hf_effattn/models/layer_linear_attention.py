"""What the layers of linear attention share: whole sequences or single steps, the cache, and the implied map."""

from typing import Any

import torch
from transformers.cache_utils import Cache

from .base_map_layer import MapLayer
from .base_sequence import SequenceInfo
from .cache_states import load_state, store_state
from .configuration_filtered import FilteredConfig
from .layer_attention import MultiHeadAttention, refuse_long_map
from .layer_kernelize import LinearAttention
from .ops_reference import linear_attention_map


class LinearAttentionLayer(MultiHeadAttention):
    """Projections around `linear_attention`; a family says what the queries, keys and scale are."""

    def __init__(self, config: FilteredConfig, layer_idx: int, output_projection: bool = True):
        super().__init__(config, layer_idx, output_projection)
        self.operator = LinearAttention(config)

    def features(
        self, hidden_states: torch.Tensor, sequence: SequenceInfo, cache: Cache | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query and key ``[batch, heads, length, features]`` as they are multiplied, and value."""
        return self.project(hidden_states, sequence, cache)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None,
        output_attentions: bool,
        *,
        normalize: bool,
        scale: float | torch.Tensor | None = None,
        eps: float = 1e-6,
        dropout_p: float = 0.0,
        feature_map: MapLayer | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layer's output ``[batch, length, hidden]`` and, if asked for, the map it implies.

        With a cache the layer goes on from the state that it left there, and leaves the new one.

        Args:
            query: ``[batch, heads, length, features]``, mapped unless there is a `feature_map`.
            key: ``[batch, heads, length, features]``, like the queries.
            value: ``[batch, heads, length, head_dim]``.
            sequence: mask and counts of real tokens.
            cache: transformers' cache, for a decoder.
            output_attentions: whether to build the map, in O(length^2).
            normalize: see `linear_attention`, as for the other options.
            scale: a factor on the output.
            eps: added to the denominator.
            dropout_p: dropout on the state, in training.
            feature_map: what is still to be done to queries and keys.

        Raises:
            ValueError: a map that is too large, or whose keys are gone into a state.
        """
        options: dict[str, Any] = {"key_mask": sequence.key_mask, "normalize": normalize, "scale": scale, "eps": eps}
        options["causal"] = self.is_causal
        state = load_state(cache, self.layer_idx)
        weights = None
        if output_attentions:
            refuse_long_map(sequence.length, sequence.length, has_past=state is not None)
            if feature_map is not None:
                query, key, feature_map = feature_map.__call__(query), feature_map.__call__(key), None
            weights = linear_attention_map(query, key, **options).to(value.dtype)
        attended, state = self.operator(
            query,
            key,
            value,
            initial_state=state,
            dropout_p=dropout_p if self.training else 0.0,
            feature_map=feature_map,
            **options,
        )
        if cache is not None:
            store_state(cache, self.layer_idx, state, sequence.token_counts)
        return self.merge(attended.to(value.dtype)), weights
