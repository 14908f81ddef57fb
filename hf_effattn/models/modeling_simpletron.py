"""SimpleTRON: attention without softmax, ``Q (K^T V)`` over the root of the length (arXiv 2111.15588)."""

from typing import Any

import torch
from transformers.cache_utils import Cache

from .attention import MultiHeadAttention, refuse_long_map
from .configuration_simpletron import SimpleTronConfig
from .encoder import EncoderBlock, EncoderModel, EncoderPreTrainedModel, SequenceInfo, attention_backend
from .heads import (
    EncoderForCausalLM,
    EncoderForImageClassification,
    EncoderForMaskedLM,
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
)
from .ops_linear import OPERATOR, linear_attention, linear_attention_step
from .ops_reference import accumulation_dtype, linear_attention_map
from .recurrent_cache import load_state, store_state


class SimpleTronAttention(MultiHeadAttention):
    """Per head ``out = Q (K^T V) / sqrt(n)``, in O(N d^2); no softmax, no feature map, no denominator.

    `n` counts the real tokens: all of them for an encoder, those up to the query for a decoder.
    """

    def __init__(self, config: SimpleTronConfig, layer_idx: int):
        super().__init__(config, layer_idx, output_projection=config.use_output_projection)
        self.backend = attention_backend(config)
        self.width = self.head_dim if config.attention_scale == "sqrt_len_dim" else 1

    def scale(self, sequence: SequenceInfo, dtype: torch.dtype) -> torch.Tensor:
        """``1 / sqrt(n)``, with ``sqrt_len_dim`` ``1 / sqrt(n d)``; ``[batch or 1, 1, N or 1, 1]``."""
        counts = sequence.token_counts if self.is_causal else sequence.total_counts
        return (counts.clamp(min=1).to(dtype) * self.width).rsqrt()[:, None, :, None]

    def forward(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.project(hidden_states)
        scale = self.scale(sequence, accumulation_dtype(query.dtype))
        options: dict[str, Any] = {"key_mask": sequence.key_mask, "normalize": False, "scale": scale}
        initial_state = load_state(cache, self.layer_idx)
        if initial_state is not None and sequence.length == 1:
            attended, state = linear_attention_step(query, key, value, initial_state, **options)
        else:
            attended, state = linear_attention(
                query,
                key,
                value,
                causal=self.is_causal,
                initial_state=initial_state,
                dropout_p=self.dropout_p if self.training else 0.0,
                backend=self.backend,
                **options,
            )
        if cache is not None:
            store_state(cache, self.layer_idx, state, sequence.token_counts)
        weights = None
        if output_attentions:
            refuse_long_map(sequence.length, has_past=initial_state is not None)
            weights = linear_attention_map(query, key, causal=self.is_causal, **options).to(query.dtype)
        return self.merge(attended), weights


class SimpleTronPreTrainedModel(EncoderPreTrainedModel):
    config_class = SimpleTronConfig
    attention_class = SimpleTronAttention
    attention_operator = OPERATOR
    _is_stateful = True
    _can_record_outputs = {"hidden_states": EncoderBlock, "attentions": SimpleTronAttention}


class SimpleTronModel(SimpleTronPreTrainedModel, EncoderModel):
    """SimpleTRON without a head."""


class SimpleTronForMaskedLM(SimpleTronPreTrainedModel, EncoderForMaskedLM):
    base_class = SimpleTronModel


class SimpleTronForCausalLM(SimpleTronPreTrainedModel, EncoderForCausalLM):
    base_class = SimpleTronModel


class SimpleTronForSequenceClassification(SimpleTronPreTrainedModel, EncoderForSequenceClassification):
    base_class = SimpleTronModel


class SimpleTronForTokenClassification(SimpleTronPreTrainedModel, EncoderForTokenClassification):
    base_class = SimpleTronModel


class SimpleTronForQuestionAnswering(SimpleTronPreTrainedModel, EncoderForQuestionAnswering):
    base_class = SimpleTronModel


class SimpleTronForImageClassification(SimpleTronPreTrainedModel, EncoderForImageClassification):
    base_class = SimpleTronModel


SimpleTronModel.register_for_auto_class("AutoModel")
SimpleTronForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
SimpleTronForCausalLM.register_for_auto_class("AutoModelForCausalLM")
SimpleTronForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
SimpleTronForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
SimpleTronForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
SimpleTronForImageClassification.register_for_auto_class("AutoModelForImageClassification")
