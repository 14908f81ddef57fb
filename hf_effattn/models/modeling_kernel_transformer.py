"""Kernel attention: linear attention whose feature map is fixed, or a small trained network (arXiv 2211.04076)."""

from typing import Any, cast

import torch
from transformers.cache_utils import Cache

from .base_sequence import SequenceInfo
from .configuration_kernel_transformer import KernelTransformerConfig
from .layer_feature_maps import make_feature_map, prepare_features
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
from .skeleton_outputs import EffAttnOutput


class KernelTransformerAttention(LinearSelfAttention):
    """Per head ``out_n = phi(q_n) . sum_m phi(k_m) v_m^T / (phi(q_n) . sum_m phi(k_m) + eps)``, in O(N F d).

    The sums run over the real tokens, for a decoder over those up to the query.
    """

    eps: float

    def __init__(self, config: KernelTransformerConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.feature_map = make_feature_map(config)
        self.eps = float(config.normalizer_eps) * self.feature_map.unit
        self.orthogonality_penalty = float(config.orthogonality_penalty)

    def penalty(self) -> torch.Tensor | None:
        """``lambda * mean (W W^T - I)^2`` over the layers of the feature map."""
        if self.orthogonality_penalty == 0:
            return None
        error: torch.Tensor = self.feature_map()
        return self.orthogonality_penalty * error

    def features(
        self, hidden_states: torch.Tensor, sequence: SequenceInfo, cache: Cache | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value = self.project(hidden_states, sequence, cache)
        return self.feature_map(query, is_query=True), self.feature_map(key, is_query=False), value

    def forward(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.project(hidden_states, sequence, cache)
        query, key, last_layer = prepare_features(self.feature_map, query, key)
        inputs = (query, key, value, sequence, cache, output_attentions)
        return self.attend(*inputs, normalize=True, eps=self.eps, feature_map=last_layer)


class KernelTransformerPreTrainedModel(EffAttnPreTrainedModel):
    config_class = KernelTransformerConfig
    attention_class = KernelTransformerAttention
    attention_operator = LINEAR_ATTENTION
    _can_record_outputs = {"hidden_states": EffAttnBlock, "attentions": KernelTransformerAttention}

    @property
    def attention_width(self) -> int:
        return max(super().attention_width, self.config.num_features or 0)


class KernelTransformerModel(KernelTransformerPreTrainedModel, EffAttnModel):
    """The kernel attention model without a head."""

    def attentions(self) -> list[KernelTransformerAttention]:
        """The attention of every layer."""
        return [cast(KernelTransformerAttention, layer.attention) for layer in self.layers]

    def encode(self, *args: Any, **kwargs: Any) -> EffAttnOutput:
        """As `EffAttnModel.encode`. A training pass may begin with new random features, see `FavorMap`."""
        if self.training and not self.continues_pass:
            for attention in self.attentions():
                attention.feature_map.start_pass()
        return super().encode(*args, **kwargs)

    def penalty(self) -> torch.Tensor | None:
        """The sum of the layers' `KernelTransformerAttention.penalty`, or None."""
        penalties = [attention.penalty() for attention in self.attentions()]
        given = [penalty for penalty in penalties if penalty is not None]
        # The layers may be spread over several devices.
        return torch.stack([penalty.to(given[0].device) for penalty in given]).sum() if given else None


class KernelTransformerForMaskedLM(KernelTransformerPreTrainedModel, EffAttnForMaskedLM):
    base_class = KernelTransformerModel


class KernelTransformerForCausalLM(KernelTransformerPreTrainedModel, EffAttnForCausalLM):
    base_class = KernelTransformerModel


class KernelTransformerForSequenceClassification(KernelTransformerPreTrainedModel, EffAttnForSequenceClassification):
    base_class = KernelTransformerModel


class KernelTransformerForTokenClassification(KernelTransformerPreTrainedModel, EffAttnForTokenClassification):
    base_class = KernelTransformerModel


class KernelTransformerForQuestionAnswering(KernelTransformerPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = KernelTransformerModel


class KernelTransformerForMultipleChoice(KernelTransformerPreTrainedModel, EffAttnForMultipleChoice):
    base_class = KernelTransformerModel


class KernelTransformerForImageClassification(KernelTransformerPreTrainedModel, EffAttnForImageClassification):
    base_class = KernelTransformerModel
