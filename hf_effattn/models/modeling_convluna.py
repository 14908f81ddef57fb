"""ConvLuna: Luna with a filter on what it packs (Yorsh et al. 2024, arXiv 2404.00798)."""

from typing import Any

from .configuration_convluna import ConvLunaConfig
from .family_luna import LunaBaseModel, LunaBlock
from .layer_filters import KeyValueFilter, make_memory_filter
from .layer_luna import PackUnpackAttention
from .ops_softmax import SOFTMAX_ATTENTION
from .skeleton_heads import (
    EffAttnForImageClassification,
    EffAttnForMaskedLM,
    EffAttnForMultipleChoice,
    EffAttnForQuestionAnswering,
    EffAttnForSequenceClassification,
    EffAttnForTokenClassification,
)
from .skeleton_model import EffAttnPreTrainedModel


class ConvLunaPreTrainedModel(EffAttnPreTrainedModel):
    config_class = ConvLunaConfig
    attention_operator = SOFTMAX_ATTENTION
    _no_split_modules = ["LunaBlock"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": LunaBlock, "attentions": PackUnpackAttention}


class ConvLunaModel(ConvLunaPreTrainedModel, LunaBaseModel):
    """ConvLuna without a head: ``Y_P = Attn(P, F(X), F(X))`` with a filter `F`, and ``Y_X = Attn(X, Y_P, Y_P)``."""

    def build_filter(self, config: Any) -> KeyValueFilter | None:
        return make_memory_filter(config, config.num_attention_heads)


class ConvLunaForMaskedLM(ConvLunaPreTrainedModel, EffAttnForMaskedLM):
    base_class = ConvLunaModel


class ConvLunaForSequenceClassification(ConvLunaPreTrainedModel, EffAttnForSequenceClassification):
    base_class = ConvLunaModel


class ConvLunaForTokenClassification(ConvLunaPreTrainedModel, EffAttnForTokenClassification):
    base_class = ConvLunaModel


class ConvLunaForQuestionAnswering(ConvLunaPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = ConvLunaModel


class ConvLunaForMultipleChoice(ConvLunaPreTrainedModel, EffAttnForMultipleChoice):
    base_class = ConvLunaModel


class ConvLunaForImageClassification(ConvLunaPreTrainedModel, EffAttnForImageClassification):
    base_class = ConvLunaModel
