"""SimpleTRON: attention without softmax, ``Q (K^T V)`` over the root of the length (arXiv 2111.15588)."""

import torch
from transformers.cache_utils import Cache

from .base_operators import accumulation_dtype
from .base_sequence import SequenceInfo
from .configuration_simpletron import SimpleTronConfig
from .layer_linear_attention import LinearSelfAttention
from .ops_linear import LINEAR_ATTENTION
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


class SimpleTronAttention(LinearSelfAttention):
    """Per head ``out = Q (K^T V) / sqrt(n)``, in O(N d^2); no softmax, no feature map, no denominator.

    `n` counts the real tokens: all of them for an encoder, those up to the query for a decoder.
    """

    def __init__(self, config: SimpleTronConfig, layer_idx: int):
        super().__init__(config, layer_idx, output_projection=config.use_output_projection)
        self.dropout_p = float(config.attention_probs_dropout_prob)
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
        query, key, value = self.features(hidden_states, sequence, cache)
        scale = self.scale(sequence, accumulation_dtype(query.dtype))
        inputs = (query, key, value, sequence, cache, output_attentions)
        return self.attend(*inputs, normalize=False, scale=scale, dropout_p=self.dropout_p)


class SimpleTronPreTrainedModel(EffAttnPreTrainedModel):
    config_class = SimpleTronConfig
    attention_class = SimpleTronAttention
    attention_operator = LINEAR_ATTENTION
    _can_record_outputs = {"hidden_states": EffAttnBlock, "attentions": SimpleTronAttention}


class SimpleTronModel(SimpleTronPreTrainedModel, EffAttnModel):
    """SimpleTRON without a head."""


class SimpleTronForMaskedLM(SimpleTronPreTrainedModel, EffAttnForMaskedLM):
    base_class = SimpleTronModel


class SimpleTronForCausalLM(SimpleTronPreTrainedModel, EffAttnForCausalLM):
    base_class = SimpleTronModel


class SimpleTronForSequenceClassification(SimpleTronPreTrainedModel, EffAttnForSequenceClassification):
    base_class = SimpleTronModel


class SimpleTronForTokenClassification(SimpleTronPreTrainedModel, EffAttnForTokenClassification):
    base_class = SimpleTronModel


class SimpleTronForQuestionAnswering(SimpleTronPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = SimpleTronModel


class SimpleTronForMultipleChoice(SimpleTronPreTrainedModel, EffAttnForMultipleChoice):
    base_class = SimpleTronModel


class SimpleTronForImageClassification(SimpleTronPreTrainedModel, EffAttnForImageClassification):
    base_class = SimpleTronModel
