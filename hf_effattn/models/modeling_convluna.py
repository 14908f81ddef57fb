"""ConvLuna: Luna with a filter on what it packs (Yorsh et al. 2024, arXiv 2404.00798)."""

from .configuration_convluna import ConvLunaConfig
from .family_luna import LunaBlock, LunaEncoderModel, PackUnpackAttention
from .layer_filters import make_memory_filter
from .ops_softmax import OPERATOR
from .skeleton_heads import (
    EffAttnForImageClassification,
    EffAttnForMaskedLM,
    EffAttnForMultipleChoice,
    EffAttnForQuestionAnswering,
    EffAttnForSequenceClassification,
    EffAttnForTokenClassification,
)
from .skeleton_model import EffAttnPreTrainedModel


class ConvLunaAttention(PackUnpackAttention):
    """``Y_P = Attn(P, F(X), F(X))`` with a filter `F`, and ``Y_X = Attn(X, Y_P, Y_P)``."""

    def __init__(self, config: ConvLunaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.filter = make_memory_filter(config, self.num_heads)


class ConvLunaPreTrainedModel(EffAttnPreTrainedModel):
    config_class = ConvLunaConfig
    attention_class = ConvLunaAttention
    attention_operator = OPERATOR
    _no_split_modules = ["LunaBlock"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": LunaBlock, "attentions": ConvLunaAttention}


class ConvLunaModel(ConvLunaPreTrainedModel, LunaEncoderModel):
    """ConvLuna without a head."""


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
