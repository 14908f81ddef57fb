"""The memory transformer: memory tokens beside the input (2006.11527), or from segment to segment (2207.06881)."""

from .configuration_memory_transformer import MemoryTransformerConfig
from .encoder import EncoderPreTrainedModel
from .heads import (
    EncoderForCausalLM,
    EncoderForImageClassification,
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
)
from .memory_layer import MemoryAttention
from .memory_model import MemoryEncoderModel
from .ops_softmax import OPERATOR


class MemoryTransformerPreTrainedModel(EncoderPreTrainedModel):
    config_class = MemoryTransformerConfig
    attention_class = MemoryAttention
    attention_operator = OPERATOR
    _no_split_modules = ["MemoryBlock"]
    _supports_sdpa = True


class MemoryTransformerModel(MemoryTransformerPreTrainedModel, MemoryEncoderModel):
    """The memory transformer without a head."""


class MemoryTransformerForMaskedLM(MemoryTransformerPreTrainedModel, EncoderForMaskedLM):
    base_class = MemoryTransformerModel


class MemoryTransformerForCausalLM(MemoryTransformerPreTrainedModel, EncoderForCausalLM):
    base_class = MemoryTransformerModel


class MemoryTransformerForSequenceClassification(MemoryTransformerPreTrainedModel, EncoderForSequenceClassification):
    base_class = MemoryTransformerModel


class MemoryTransformerForTokenClassification(MemoryTransformerPreTrainedModel, EncoderForTokenClassification):
    base_class = MemoryTransformerModel


class MemoryTransformerForQuestionAnswering(MemoryTransformerPreTrainedModel, EncoderForQuestionAnswering):
    base_class = MemoryTransformerModel


class MemoryTransformerForMultipleChoice(MemoryTransformerPreTrainedModel, EncoderForMultipleChoice):
    base_class = MemoryTransformerModel


class MemoryTransformerForImageClassification(MemoryTransformerPreTrainedModel, EncoderForImageClassification):
    base_class = MemoryTransformerModel


MemoryTransformerModel.register_for_auto_class("AutoModel")
MemoryTransformerForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
MemoryTransformerForCausalLM.register_for_auto_class("AutoModelForCausalLM")
MemoryTransformerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MemoryTransformerForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
MemoryTransformerForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
MemoryTransformerForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
MemoryTransformerForImageClassification.register_for_auto_class("AutoModelForImageClassification")
