"""`generate` of decoders: transformers' own, which also goes on from any cache and stops at the last position."""

from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerationMixin
from transformers.utils import logging

from .base_compat import CACHE_NAME, StateGeneration, name_cache, takes_both_cache_names
from .base_sequence import check_mask_values
from .cache_states import unseen_length
from .cache_tokens import CachedTokens
from .configuration_effattn import EffAttnConfig


logger = logging.get_logger(__name__)


class LastPosition(StoppingCriteria):
    """Ends a generation whose longest text has filled the model's positions.

    Args:
        length: tokens in `generate`'s output that fill them.
        limit: `max_position_embeddings`, for the warning.
    """

    def __init__(self, length: int, limit: int):
        self.length, self.limit = length, limit

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        full = input_ids.shape[1] >= self.length
        if full:
            logger.warning(f"generation stopped at the model's last position: max_position_embeddings={self.limit}")
        return torch.full((input_ids.shape[0],), full, dtype=torch.bool, device=input_ids.device)


class CachedGenerationMixin(StateGeneration, GenerationMixin):
    """`generate` for decoders whose caches hold states, which do not count positions.

    (transformers looks for ``GenerationMixin`` in the names of a model's bases to tell whether it generates.)
    """

    config: EffAttnConfig

    @takes_both_cache_names
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`transformers.GenerationMixin.generate`, which also goes on from a cache of states.

        With a `cache` and an `attention_mask` as wide as the input, the input is the whole text, and the model reads
        the tokens that the cache has not seen. With a wider mask, the input is new tokens, and the mask covers the
        whole text. Without a mask, an input shorter than what the cache has seen is new tokens without padding.

        It stops with a warning when the longest text of the batch has filled `max_position_embeddings`, even if more
        tokens are asked for. The last token has no position, since the model does not read it.

        Raises:
            ValueError: the input is longer than the model has positions; the cache does not fit or has seen all of the
                input; or it is open whether the input is the whole text.
        """
        cache = kwargs.pop("cache", None)
        tokens = inputs if inputs is not None else kwargs.get("input_ids")
        given = tokens if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        if given is not None and (not isinstance(given, torch.Tensor) or given.dim() < 2):
            found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            raise ValueError(f"the input must be a tensor [batch, length], got {found}; of a tokenizer, pass **inputs")
        mask = kwargs.get("attention_mask")
        # An assistant is given whole texts and its cache again and again, without a mask if nothing is padded.
        if given is not None and not getattr(generation_config, "is_assistant", False):
            mask = kwargs["attention_mask"] = self._whole_mask(given, mask, cache)
        # Without an input transformers starts with one token.
        written = (1 if given is None else 0) if tokens is None else tokens.shape[1]
        length = 1 if given is None else given.shape[1]
        stopping_criteria = self._with_last_position(stopping_criteria, written, length, mask)
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        return name_cache(
            super().generate(inputs, generation_config, logits_processor, stopping_criteria, *args, **kwargs)
        )

    def _prefill(
        self, input_ids: torch.Tensor, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Pass on the width of the mask: transformers drops a mask of ones and keeps only its width, here.

        `generate` itself cannot take the width as an argument, because transformers refuses unknown arguments where a
        wrapper such as PEFT's stands in front of `prepare_inputs_for_generation`.
        """
        if model_kwargs.get("attention_mask") is None:
            model_kwargs["mask_length"] = getattr(generation_config, "_mask_length", None)
        return super()._prefill(
            input_ids,
            generation_config,
            model_kwargs,
            *args,
            **kwargs,
        )

    @takes_both_cache_names
    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        mask_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `forward` in a step of `generate`: with a cache, the tokens that it has not seen.

        Args:
            mask_length: the width of the mask that `generate` was given; it drops a mask that hides nothing.
                A mask as wide as the input means that both are the whole text, as everywhere in transformers, which
                cuts off the beginning only for caches that count positions.

        The other arguments are those of transformers.

        Raises:
            ValueError: a cache of states does not fit the text, see `unseen_length`, or has seen all of it.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if is_first_iteration and cache is not None:
            cached = CachedTokens.read(cache, self.config)
            width = mask_length if attention_mask is None else attention_mask.shape[1]
            if cached.counts is not None and cached.rows is not None and width == given.shape[1]:
                cached.check_rows(given.shape[0])
                mask = given.new_ones(given.shape[:2]) if attention_mask is None else attention_mask
                next_sequence_length = unseen_length(cached.counts.to(mask.device), mask)
            if next_sequence_length is not None and next_sequence_length < 1:
                raise ValueError(
                    f"the cache has seen {cached.length} positions and the input has {given.shape[1]}: nothing is "
                    "left to read. Pass the whole text with at least one new token, or new tokens alone with an "
                    "attention_mask of the whole"
                )
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        return inputs

    def _whole_mask(self, given: torch.Tensor, mask: torch.Tensor | None, cache: Cache | None) -> torch.Tensor | None:
        """The mask of the whole text: the given one, or one of ones for new tokens behind a cache."""
        if mask is not None:
            check_mask_values(mask)
        cached = CachedTokens.read(cache, self.config)
        if mask is not None or cached.rows is None:
            return mask
        batch, length = given.shape[:2]
        seen = torch.full((cached.rows, 1), cached.length) if cached.counts is None else cached.counts
        if cached.rows % batch == 0:
            # A cache may have its rows as many times as there are beams, which transformers gives the input later.
            seen = seen[:: cached.rows // batch]
        else:
            cached.check_rows(batch)
        if length >= int(seen.min()):
            raise ValueError(
                f"the cache has seen {seen.flatten().tolist()} tokens and {length} are given without attention_mask, "
                "which leaves open whether they are the whole text: pass the mask of that text, as wide as the input "
                "if it is the whole, or wider by the cached tokens if it is what is new"
            )
        seen = seen.to(given.device)
        width = int(seen.max()) + length
        return (torch.arange(width, device=given.device) >= width - length - seen).long()

    def _with_last_position(
        self, criteria: StoppingCriteriaList | None, written: int, length: int, mask: torch.Tensor | None
    ) -> StoppingCriteriaList | None:
        """The criteria and a `LastPosition`, for an input of `length` of which the output repeats `written` tokens."""
        limit = self.config.max_input_length
        if limit is None:
            return criteria
        count = length if mask is None or mask.dim() != 2 else int(mask.sum(-1).max())
        if count > limit:
            raise ValueError(
                f"the text to go on from has {count} tokens, more than max_position_embeddings={limit}: truncate it "
                "(tokenizer(..., truncation=True)) or use a model with more positions"
            )
        return StoppingCriteriaList([*(criteria or []), LastPosition(written + limit - count + 1, limit)])
