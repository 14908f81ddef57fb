"""What the layers of linear attention share: whole sequences or single steps, the cache, and the implied map."""

from typing import ClassVar

import torch
from transformers.cache_utils import Cache

from .base_call import LinearAttentionCall
from .base_map_layer import MapLayer
from .base_sequence import SequenceInfo
from .cache_states import load_state, store_state
from .configuration_filtered import FilteredConfig
from .layer_attention import ProjectedAttention, refuse_long_map
from .layer_filters import make_key_value_filter
from .layer_kernelize import LinearAttention
from .ops_attention_maps import linear_attention_map


class LinearSelfAttention(ProjectedAttention):
    """Projections around `linear_attention`; a family says what the queries, keys and scale are."""

    #: What `hf_effattn.diagnose` measures here: the state, and where there is an `eps` the denominators.
    measured: ClassVar[str] = "linear attention"
    #: What is added to the denominator, of attention that has one.
    eps: float | None = None

    def __init__(self, config: FilteredConfig, layer_idx: int, output_projection: bool = True) -> None:
        super().__init__(config, layer_idx, output_projection, make_key_value_filter(config))
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

        With a cache the layer continues from the state that it stored there, and stores the new one.

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
            feature_map: the last layer of a feature map, which queries and keys still have to pass.

        Raises:
            ValueError: the map would be too large, or needs keys that were summed into a state.
        """
        past = load_state(cache, self.layer_idx)
        dropout_p = dropout_p if self.training else 0.0
        call = LinearAttentionCall(
            sequence.key_mask, self.is_causal, normalize, scale, eps, past, dropout_p, feature_map
        )
        weights = None
        if output_attentions:
            refuse_long_map(sequence.length, sequence.length, has_past=past is not None)
            weights = linear_attention_map(query, key, call).to(value.dtype)
        attended, state = self.operator(query, key, value, call)
        if cache is not None:
            store_state(cache, self.layer_idx, state, sequence.token_counts)
        return self.merge(attended.to(value.dtype)), weights
