"""Makes inputs for a model from its config."""

import math

import torch
from transformers import PreTrainedModel


#: The largest number of tokens in an input.
LENGTH = 65


def sample_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Make a batch of two rows for the forward of a model. The same config always gives the same batch.

    - Tokens are ``[2, length]``, drawn from the whole vocabulary; the end of the second row is padding.
    - Multiple choice gets ``[2, 2, length]``. A classifier of pairs gets a second sequence as well.
    - Pixels are ``[2, channels, side, side]``.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, config.max_input_length or LENGTH)
    if model.main_input_name == "pixel_values":
        # The CLS vector takes one position.
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
