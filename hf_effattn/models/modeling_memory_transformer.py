"""The memory transformer: memory tokens beside the input (2006.11527), or from segment to segment (2207.06881)."""

from .configuration_memory_transformer import MemoryTransformerConfig
from .family_memory_transformer import MemoryBaseModel
from .ops_softmax import SOFTMAX_ATTENTION
from .skeleton_heads import (
    EffAttnForCausalLM,
    EffAttnForImageClassification,
    EffAttnForMaskedLM,
    EffAttnForMultipleChoice,
    EffAttnForQuestionAnswering,
    EffAttnForSequenceClassification,
    EffAttnForTokenClassification,
)
from .skeleton_model import EffAttnPreTrainedModel


class MemoryTransformerPreTrainedModel(EffAttnPreTrainedModel):
    config_class = MemoryTransformerConfig
    attention_operator = SOFTMAX_ATTENTION
    _no_split_modules = ["MemoryBlock"]
    reentrant_checkpointing = False
    _supports_sdpa = True


class MemoryTransformerModel(MemoryTransformerPreTrainedModel, MemoryBaseModel):
    """The memory transformer without a head."""


class MemoryTransformerForMaskedLM(MemoryTransformerPreTrainedModel, EffAttnForMaskedLM):
    base_class = MemoryTransformerModel


class MemoryTransformerForCausalLM(MemoryTransformerPreTrainedModel, EffAttnForCausalLM):
    base_class = MemoryTransformerModel


class MemoryTransformerForSequenceClassification(MemoryTransformerPreTrainedModel, EffAttnForSequenceClassification):
    base_class = MemoryTransformerModel


class MemoryTransformerForTokenClassification(MemoryTransformerPreTrainedModel, EffAttnForTokenClassification):
    base_class = MemoryTransformerModel


class MemoryTransformerForQuestionAnswering(MemoryTransformerPreTrainedModel, EffAttnForQuestionAnswering):
    base_class = MemoryTransformerModel


class MemoryTransformerForMultipleChoice(MemoryTransformerPreTrainedModel, EffAttnForMultipleChoice):
    base_class = MemoryTransformerModel


class MemoryTransformerForImageClassification(MemoryTransformerPreTrainedModel, EffAttnForImageClassification):
    base_class = MemoryTransformerModel
