"""How the weights of linear layers and embeddings start under ``init_scheme="authors"``: as in the authors' code.

- token embedding: N(0, 1), padding at zero, and the row of `bos_token_id`, which is the [CLS] of both tokenizers,
  uniform within ``sqrt(3 / hidden_size)`` (Xavier), or at zero with ``"authors_2021"``;
- weights and biases of linear layers: uniform within ``1 / sqrt(inputs)``;
- projection of pixels: weight N(0, 1), bias N(0, 0.1), and the [CLS] in front of them N(0, 1).

All other weights start alike under every scheme: positions at zero, a memory at N(0, 1), and filters, feature maps and
norms as their modules say.
"""

from typing import Protocol, runtime_checkable

from torch import nn
from transformers import initialization as init

from .configuration_effattn import EffAttnConfig


@runtime_checkable
class StartsItself(Protocol):
    """A module of ours that starts its own parameters and buffers, through `transformers.initialization`."""

    def start_weights(self, config: EffAttnConfig) -> None:
        """Give the parameters and buffers that the module itself owns their first values."""


def start_linear(layer: nn.Linear) -> None:
    """Weight and bias within ``1 / sqrt(inputs)``, which is how torch starts a linear layer."""
    bound = layer.in_features**-0.5
    # The bias first: then it does not depend on whether the weight is to start, or was loaded or is another's.
    if layer.bias is not None:
        init.uniform_(layer.bias, -bound, bound)
    init.uniform_(layer.weight, -bound, bound)


def start_tokens(embedding: nn.Embedding, config: EffAttnConfig) -> None:
    """Rows of N(0, 1), but for those of [CLS] and of padding."""
    init.normal_(embedding.weight)
    # The rows are slices, which have lost the mark of weights that were loaded.
    if getattr(embedding.weight, "_is_hf_initialized", False):
        return
    cls = config.bos_token_id
    if cls is not None and cls < embedding.num_embeddings:
        bound = 0.0 if config.init_scheme == "authors_2021" else (3 / embedding.embedding_dim) ** 0.5
        init.uniform_(embedding.weight[cls], -bound, bound)
    if embedding.padding_idx is not None:
        init.zeros_(embedding.weight[embedding.padding_idx])
