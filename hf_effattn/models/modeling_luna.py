"""Luna: attention through a memory that the layers hand on (Ma et al. 2021, arXiv 2106.01540)."""

from .configuration_luna import LunaConfig
from .family_luna import LunaBaseModel, LunaBlock
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


class LunaPreTrainedModel(EffAttnPreTrainedModel):
    config_class = LunaConfig
    attention_operator = SOFTMAX_ATTENTION
    _no_split_modules = ["LunaBlock"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": LunaBlock, "attentions": PackUnpackAttention}


class LunaModel(LunaPreTrainedModel, LunaBaseModel):
    """Luna without a head."""


class LunaForMaskedLM(LunaPreTrainedModel, EffAttnForMaskedLM):
    base_class = LunaModel


class LunaForSequenceClassification(LunaPreTrainedModel, EffAttnForSequenceClassification):
    base_class = LunaModel


class LunaForTokenClassification(LunaPreTrainedModel, EffAttnForTokenClassification):
    base_class = LunaModel


class LunaForQuestionAnswering(LunaPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = LunaModel


class LunaForMultipleChoice(LunaPreTrainedModel, EffAttnForMultipleChoice):
    base_class = LunaModel


class LunaForImageClassification(LunaPreTrainedModel, EffAttnForImageClassification):
    base_class = LunaModel
