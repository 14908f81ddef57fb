"""The tokens that a decoder's cache has read before a call, checked before the call changes anything."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache, LinearAttentionCacheLayerMixin, StaticLayer

from .cache_states import cached_token_count, check_recurrent_cache
from .configuration_effattn import EffAttnConfig


@dataclass(frozen=True)
class CachedTokens:
    """The tokens that a cache has read.

    Attributes:
        length: positions that the cache keeps one by one, padding among them; 0 for a cache of states.
        counts: ``[batch, 1]`` int64, how many real tokens a cache of states has seen; None for a cache of keys,
            which cannot tell them from padding.
        rows: rows of the cache, or None while it is empty.
    """

    length: int = 0
    counts: torch.Tensor | None = None
    rows: int | None = None

    @classmethod
    def read(cls, cache: Cache | None, config: EffAttnConfig) -> "CachedTokens":
        """The tokens that `cache` has read, for a model with this config; none without a cache.

        Raises:
            ValueError: a cache that is no cache of transformers or not one for these models, see `check_cache`.
        """
        if cache is None:
            return cls()
        check_cache(cache, config)
        if config.cache_type == "linear_attention":
            counts = cached_token_count(cache)
            # Zeros, and not None, say that the mask may cover cached tokens, here none yet.
            return cls(0, torch.zeros(1, 1, dtype=torch.long)) if counts is None else cls(0, counts, counts.shape[0])
        length, keys = cache.get_seq_length(), getattr(cache.layers[0], "keys", None) if cache.layers else None
        return cls(length, None, keys.shape[0] if length > 0 and keys is not None and keys.dim() == 4 else None)

    def check_rows(self, batch: int) -> None:
        """Raise ValueError unless the cache is empty or has a row for each of the input's."""
        if self.rows not in (None, batch):
            raise ValueError(
                f"the input has {batch} rows, but the cache {self.rows}: cache.reorder_cache(rows) chooses rows and "
                f"repeats them; n beams or num_return_sequences need torch.arange({self.rows}).repeat_interleave(n)"
            )


def check_cache(cache: Cache, config: EffAttnConfig) -> None:
    """Raise ValueError unless `cache` is one that a decoder with this config can go on from."""
    build = "Build it with transformers.DynamicCache(config=model.config)."
    if not isinstance(cache, Cache):
        raise ValueError(f"cache must be a cache of transformers, got {type(cache).__name__}. {build}")
    if isinstance(cache, EncoderDecoderCache):
        raise ValueError("these models do not attend to an encoder: pass cache.self_attention_cache")
    if not config.is_decoder:
        raise ValueError("a cache only works with is_decoder=True: a bidirectional encoder needs all tokens at once")
    if config.num_hidden_layers == 0:
        raise ValueError("a cache counts tokens in the layers, and num_hidden_layers=0: pass use_cache=False")
    if "full_attention" not in config.layer_types:
        check_recurrent_cache(cache, config.layer_types)
        return
    if any(isinstance(layer, StaticLayer) for layer in cache.layers):
        raise ValueError(
            "a static cache hands out slots that hold no keys yet: use "
            'transformers.DynamicCache(config=model.config), in generate cache_implementation="dynamic"'
        )
    foreign = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    # A cache without a config makes its layers when they are written to.
    if foreign or (cache.layers and len(cache.layers) != config.num_hidden_layers):
        raise ValueError(f"the cache must hold the layers {config.layer_types}, got {cache}. {build}")
