"""Embeddings of tokens and pixels, and learned positions."""

import torch
from torch import nn
from transformers import initialization as init

from .base_sequence import readable
from .configuration_effattn import EffAttnConfig
from .layer_norms import make_dropout, make_norm


#: Standard deviation of the bias of the pixel projection under the authors' schemes.
PIXEL_BIAS_STD = 0.1


class LearnedPositions(nn.Embedding):
    """A table of learned positions. It starts at zero, as the authors of SimpleTRON do."""

    def start_weights(self, config: EffAttnConfig) -> None:
        """Set the table to zero."""
        init.zeros_(self.weight)


class Embeddings(nn.Module):
    """Token or pixel embeddings plus learned positions ``[max_position_embeddings, hidden]``, then norm and dropout.

    Without `cls_position` nothing is added at position 0, and row `p - 1` of the table belongs to position `p`. A
    pixel with `num_channels` channels is mapped by one linear layer, in raster order; in front of the pixels stands a
    learned CLS vector, since no token can take that part.
    """

    def __init__(self, config: EffAttnConfig):
        super().__init__()
        self.config = config
        if config.num_channels is None:
            self.tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        else:
            self.pixels = nn.Linear(config.num_channels, config.hidden_size)
            self.cls = nn.Parameter(torch.zeros(config.hidden_size))
        self.first_position = 0 if config.cls_position else 1
        rows = config.max_position_embeddings - self.first_position
        self.positions = LearnedPositions(rows, config.hidden_size)
        self.norm = make_norm(config) if config.has_embedding_norm else None
        self.dropout = make_dropout(config, "embedding_dropout_prob")

    def start_weights(self, config: EffAttnConfig) -> None:
        """Start the vector in front of pixels, and under the authors' schemes the projection of pixels."""
        if self.config.num_channels is None:
            return
        if config.init_scheme == "normal":
            init.normal_(self.cls, std=config.initializer_range)
            return
        init.normal_(self.pixels.weight)
        init.normal_(self.pixels.bias, std=PIXEL_BIAS_STD)
        init.normal_(self.cls)

    @property
    def content(self) -> nn.Module:
        """The module that embeds the content: token embedding, or pixel projection."""
        return self.tokens if self.config.num_channels is None else self.pixels

    def set_content(self, module: nn.Module) -> None:
        """Replace `content`. (`nn.Module` would take the setter of a property for a new submodule.)"""
        setattr(self, "tokens" if self.config.num_channels is None else "pixels", module)

    def embed_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``[batch, length]`` ids to ``[batch, length, hidden]``.

        Raises:
            ValueError: an id outside the vocabulary (checked on CPU tensors only; a GPU would have to wait for
                its queue, and asserts by itself).
        """
        if self.config.num_channels is not None:
            raise ValueError(f"num_channels={self.config.num_channels}: this model reads pixel_values, not input_ids")
        _check_range("input_ids", input_ids, self.tokens.num_embeddings, "vocab_size")
        embedded: torch.Tensor = self.tokens(input_ids)
        return embedded

    def embed_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """``[batch, channels, height, width]`` to ``[batch, 1 + height * width, hidden]``, CLS first."""
        if self.config.num_channels is None:
            raise ValueError("num_channels is None: this model reads input_ids, not pixel_values")
        if pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must be [batch, num_channels={self.config.num_channels}, height, width], "
                f"got {list(pixel_values.shape)}"
            )
        pixels = self.pixels(pixel_values.flatten(2).transpose(1, 2).to(self.pixels.weight.dtype))
        return torch.cat([self.cls.expand(pixels.shape[0], 1, -1), pixels], dim=1)

    def forward(self, content: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Add positions ``[batch or 1, length]`` to embedded content ``[batch, length, hidden]``.

        Without positions: `embed_pixels` of ``[batch, channels, height, width]``, whose CLS vector is a parameter of
        this module, and so is read inside of its forward, where hooks have loaded or gathered it.

        Raises:
            ValueError: a position that the table does not hold (checked on CPU tensors only).
        """
        if position_ids is None:
            return self.embed_pixels(content)
        size = self.positions.num_embeddings + self.first_position
        _check_range("position_ids", position_ids, size, "max_position_embeddings")
        hidden_states = content + self.embed_positions(position_ids)
        embedded: torch.Tensor = self.dropout(hidden_states if self.norm is None else self.norm(hidden_states))
        return embedded

    def embed_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        """``[batch or 1, length]`` to ``[batch or 1, length, hidden]``; zeros at position 0 without `cls_position`."""
        rows = position_ids if self.first_position == 0 else (position_ids - self.first_position).clamp(min=0)
        vectors: torch.Tensor = self.positions(rows)
        if self.first_position == 0:
            return vectors
        return vectors.masked_fill((position_ids < self.first_position)[..., None], 0.0)


def _check_range(name: str, ids: torch.Tensor, size: int, size_name: str) -> None:
    if ids.device.type != "cpu" or not readable(ids) or ids.numel() == 0:
        return
    lowest, highest = (int(bound) for bound in torch.aminmax(ids))
    if lowest < 0 or highest >= size:
        raise ValueError(f"{name} must lie in [0, {size_name}={size}), got values from {lowest} to {highest}")
