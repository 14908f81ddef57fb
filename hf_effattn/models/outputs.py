"""transformers' outputs with one more field: what the attention layers add to the loss."""

from dataclasses import dataclass

import torch
from transformers import modeling_outputs


@dataclass
class EncoderOutput(modeling_outputs.BaseModelOutputWithPast):
    """Hidden states, and `aux_loss`: the sum of the layers' penalties, or None if they have none."""

    aux_loss: torch.Tensor | None = None


@dataclass
class MaskedLMOutput(modeling_outputs.MaskedLMOutput):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None


@dataclass
class CausalLMOutput(modeling_outputs.CausalLMOutputWithPast):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None


@dataclass
class SequenceClassifierOutput(modeling_outputs.SequenceClassifierOutput):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None


@dataclass
class TokenClassifierOutput(modeling_outputs.TokenClassifierOutput):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None


@dataclass
class QuestionAnsweringOutput(modeling_outputs.QuestionAnsweringModelOutput):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None


@dataclass
class ImageClassifierOutput(modeling_outputs.ImageClassifierOutput):
    """`loss` includes `aux_loss`."""

    aux_loss: torch.Tensor | None = None
