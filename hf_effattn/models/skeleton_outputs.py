"""transformers' outputs, with the fields that the families add."""

from dataclasses import dataclass

import torch
from transformers import modeling_outputs

from .base_compat import CacheOutput


@dataclass
class EffAttnFields(CacheOutput):
    """The fields that every output of the library has at its end.

    Attributes:
        aux_loss: the sum of the layers' penalties, which `loss` includes; None if the config asks for no penalty.
            Without labels it is computed in training passes only: in training mode, with gradients, without a cache.
        memory: the memory after the last layer, ``[batch, cells, hidden]``, of families that have one. Luna and
            ConvLuna norm it only with ``pooling="memory"``; otherwise no head would train the norm.
        pack_attentions: with `output_attentions`, for every layer of such a family the weights with which each cell
            reads each token (or window of a strided filter), ``[batch, heads, cells, tokens]``; `attentions` then
            holds the weights with which each token reads each cell.
    """

    aux_loss: torch.Tensor | None = None
    memory: torch.Tensor | None = None
    pack_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EffAttnOutput(EffAttnFields, modeling_outputs.BaseModelOutputWithPast):
    """The output of a model without a head."""

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # a field of an output needs a default


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
    """`loss` includes `aux_loss`. Hidden states and maps have ``batch * choices`` rows."""


@dataclass
class ImageClassifierOutput(EffAttnFields, modeling_outputs.ImageClassifierOutput):
    """`loss` includes `aux_loss`."""
