"""The softmax Transformer on the skeleton of the other families: the baseline they are measured against."""

from typing import Any

import torch
from transformers.cache_utils import Cache

from .base_sequence import SequenceInfo
from .configuration_vanilla_transformer import VanillaTransformerConfig
from .layer_attention import ProjectedAttention, refuse_long_map
from .layer_filters import make_key_value_filter
from .ops_attention_maps import softmax_attention_map
from .ops_softmax import SOFTMAX_ATTENTION, softmax_attention
from .skeleton_block import EffAttnBlock
from .skeleton_heads import (
    EffAttnForCausalLM,
    EffAttnForImageClassification,
    EffAttnForMaskedLM,
    EffAttnForMultipleChoice,
    EffAttnForQuestionAnswering,
    EffAttnForSequenceClassification,
    EffAttnForTokenClassification,
)
from .skeleton_model import EffAttnModel, EffAttnPreTrainedModel


class VanillaTransformerAttention(ProjectedAttention):
    """Multi-head ``softmax(Q K^T / sqrt(d)) V`` with an output projection, in O(N^2 d)."""

    def __init__(self, config: VanillaTransformerConfig, layer_idx: int):
        super().__init__(config, layer_idx, key_value_filter=make_key_value_filter(config))
        self.config = config
        self.dropout_p = float(config.attention_probs_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.project(hidden_states, sequence, cache)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        options: dict[str, Any] = {"key_mask": sequence.attention_mask, "causal": self.is_causal}
        attended = softmax_attention(
            query,
            key,
            value,
            dropout_p=self.dropout_p if self.training else 0.0,
            # Read here and not once, because `model.set_attn_implementation` may change it.
            backend=self.config.resolved_backend,
            **options,
        )
        weights = None
        if output_attentions:
            refuse_long_map(query.shape[2], key.shape[2])
            weights = softmax_attention_map(query, key, **options).to(query.dtype)
        return self.merge(attended), weights


class VanillaTransformerPreTrainedModel(EffAttnPreTrainedModel):
    config_class = VanillaTransformerConfig
    attention_class = VanillaTransformerAttention
    attention_operator = SOFTMAX_ATTENTION
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": EffAttnBlock, "attentions": VanillaTransformerAttention}


class VanillaTransformerModel(VanillaTransformerPreTrainedModel, EffAttnModel):
    """The softmax Transformer without a head."""


class VanillaTransformerForMaskedLM(VanillaTransformerPreTrainedModel, EffAttnForMaskedLM):
    base_class = VanillaTransformerModel


class VanillaTransformerForCausalLM(VanillaTransformerPreTrainedModel, EffAttnForCausalLM):
    base_class = VanillaTransformerModel


class VanillaTransformerForSequenceClassification(VanillaTransformerPreTrainedModel, EffAttnForSequenceClassification):
    base_class = VanillaTransformerModel


class VanillaTransformerForTokenClassification(VanillaTransformerPreTrainedModel, EffAttnForTokenClassification):
    base_class = VanillaTransformerModel


class VanillaTransformerForQuestionAnswering(VanillaTransformerPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = VanillaTransformerModel


class VanillaTransformerForMultipleChoice(VanillaTransformerPreTrainedModel, EffAttnForMultipleChoice):
    base_class = VanillaTransformerModel


class VanillaTransformerForImageClassification(VanillaTransformerPreTrainedModel, EffAttnForImageClassification):
    base_class = VanillaTransformerModel
