"""Inputs for a model, made from its config alone."""

import math

import torch
from transformers import PreTrainedModel


#: The longest input that is made, in tokens.
LENGTH = 65


def sample_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch of two that the model's forward takes, always the same: pixels, or tokens with padding, or pairs.

    Tokens are drawn from the whole vocabulary, ``[2, length]``, and the end of the second row is padding; choices are
    ``[2, 2, length]``. Pixels are ``[2, channels, side, side]``.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, config.max_input_length or LENGTH)
    if model.main_input_name == "pixel_values":
        # One position is that of the CLS vector.
        side = max(1, math.isqrt(length - 1))
        return {"pixel_values": torch.randn(2, config.num_channels, side, side, generator=generator).to(model.dtype)}
    if type(model).__name__.endswith("ForMultipleChoice"):
        choices = [_tokens(config.vocab_size, config.pad_token_id or 0, length, generator) for _ in range(2)]
        return {name: torch.stack([choice[name] for choice in choices], dim=1) for name in choices[0]}
    inputs = _tokens(config.vocab_size, config.pad_token_id or 0, length, generator)
    # The base model of a pair classifier reads one sequence.
    if config.pair_features is not None and type(model).__name__.endswith("ForSequenceClassification"):
        second = _tokens(config.vocab_size, config.pad_token_id or 0, 1 + length // 2, generator)
        inputs |= {f"pair_{name}": tensor for name, tensor in second.items()}
    return inputs


def _tokens(vocab_size: int, pad_token_id: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    input_ids = torch.randint(vocab_size, (2, length), generator=generator)
    attention_mask = torch.ones(2, length, dtype=torch.int64)
    attention_mask[1, length - length // 3 :] = 0
    return {"input_ids": input_ids.masked_fill(attention_mask == 0, pad_token_id), "attention_mask": attention_mask}
