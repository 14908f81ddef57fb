"""transformers' outputs with what the families add to them."""

from dataclasses import dataclass

import torch
from transformers import modeling_outputs

from .base_compat import CacheOutput


@dataclass
class EffAttnFields(CacheOutput):
    """The fields that every output of the library has at its end.

    Attributes:
        aux_loss: the sum of the layers' penalties, which `loss` includes; None if they have none, or if nothing reads
            it: without labels it is only computed in training mode.
        memory: the memory after the last layer, ``[batch, cells, hidden]``, of families that have one. Luna and
            ConvLuna norm it only with ``pooling="memory"``: where nothing reads it, the norm would stay untrained.
        pack_attentions: with `output_attentions`, for every layer of such a family how much each cell reads of each
            token (or window of a strided filter), ``[batch, heads, cells, tokens]``; `attentions` then holds what each
            token reads of each cell.
    """

    aux_loss: torch.Tensor | None = None
    memory: torch.Tensor | None = None
    pack_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EffAttnOutput(EffAttnFields, modeling_outputs.BaseModelOutputWithPast):
    """Hidden states, and what the family adds."""


@dataclass
class MaskedLMOutput(EffAttnFields, modeling_outputs.MaskedLMOutput):
    """`loss` includes `aux_loss`."""


@dataclass
class CausalLMOutput(EffAttnFields, modeling_outputs.CausalLMOutputWithPast):
    """`loss` includes `aux_loss`."""


@dataclass
class SequenceClassifierOutput(EffAttnFields, modeling_outputs.SequenceClassifierOutput):
    """`loss` includes `aux_loss`."""


@dataclass
class TokenClassifierOutput(EffAttnFields, modeling_outputs.TokenClassifierOutput):
    """`loss` includes `aux_loss`."""


@dataclass
class QuestionAnsweringOutput(EffAttnFields, modeling_outputs.QuestionAnsweringModelOutput):
    """`loss` includes `aux_loss`."""


@dataclass
class MultipleChoiceOutput(EffAttnFields, modeling_outputs.MultipleChoiceModelOutput):
    """`loss` includes `aux_loss`. What the encoder recorded has ``batch * choices`` rows."""


@dataclass
class ImageClassifierOutput(EffAttnFields, modeling_outputs.ImageClassifierOutput):
    """`loss` includes `aux_loss`."""
