"""Luna: attention through a memory that the layers hand on (Ma et al. 2021, arXiv 2106.01540)."""

from .configuration_luna import LunaConfig
from .encoder import EncoderPreTrainedModel
from .heads import (
    EncoderForImageClassification,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
)
from .luna_layer import LunaBlock, LunaEncoderModel, PackUnpackAttention
from .ops_softmax import OPERATOR


class LunaPreTrainedModel(EncoderPreTrainedModel):
    config_class = LunaConfig
    attention_class = PackUnpackAttention
    attention_operator = OPERATOR
    _no_split_modules = ["LunaBlock"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": LunaBlock, "attentions": PackUnpackAttention}


class LunaModel(LunaPreTrainedModel, LunaEncoderModel):
    """Luna without a head."""


class LunaForMaskedLM(LunaPreTrainedModel, EncoderForMaskedLM):
    base_class = LunaModel


class LunaForSequenceClassification(LunaPreTrainedModel, EncoderForSequenceClassification):
    base_class = LunaModel


class LunaForTokenClassification(LunaPreTrainedModel, EncoderForTokenClassification):
    base_class = LunaModel


class LunaForQuestionAnswering(LunaPreTrainedModel, EncoderForQuestionAnswering):
    base_class = LunaModel


class LunaForMultipleChoice(LunaPreTrainedModel, EncoderForMultipleChoice):
    base_class = LunaModel


class LunaForImageClassification(LunaPreTrainedModel, EncoderForImageClassification):
    base_class = LunaModel


LunaModel.register_for_auto_class("AutoModel")
LunaForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
LunaForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
LunaForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
LunaForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
LunaForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
LunaForImageClassification.register_for_auto_class("AutoModelForImageClassification")
