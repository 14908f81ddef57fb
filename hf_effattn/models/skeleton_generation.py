"""What a decoder's `generate` does beside transformers' own: go on from any cache, and stop at the last position."""

from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from .base_compat import CACHE_NAME, StateGeneration, name_cache, takes_both_cache_names
from .base_sequence import check_mask_values
from .cache_past import Past
from .cache_states import unseen_length
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
    """`generate` for decoders whose caches hold states, which cannot say how many positions they have read.

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

        With a `cache` and an `attention_mask` as wide as the input, the input is the whole text, of which the model
        reads what the cache has not seen; with a wider mask, it is new tokens, and the mask that of the whole. Without
        a mask, an input shorter than what the cache has seen is new tokens, none of them padding.

        It stops when the longest text of the batch has filled `max_position_embeddings`, whatever else was asked for,
        and says so. The last token has no position, since the model does not read it.

        Raises:
            ValueError: an input that is longer than the model has positions; a cache that does not fit, that has seen
                all of the input, or that leaves open what the input is.
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
        """Hand on how wide the mask was: transformers leaves out one that hides nothing, and keeps its width here.

        It would take no such argument of `generate` itself where a wrapper, such as PEFT's, stands in front of
        `prepare_inputs_for_generation`.
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
        """What `forward` gets in a step of `generate`: with a cache, the tokens that it has not seen.

        Args:
            mask_length: the width of the mask that `generate` was given, and leaves out if nothing is padded. A mask
                as wide as the input says that both are the whole text, as everywhere in transformers, which cuts off
                the beginning only for caches that count positions.

        The other arguments are those of transformers.

        Raises:
            ValueError: a cache of states that does not go with the text, see `unseen_length`, or one that has seen
                all of it.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if is_first_iteration and cache is not None:
            past = Past.of(cache, self.config)
            width = mask_length if attention_mask is None else attention_mask.shape[1]
            if past.counts is not None and past.rows is not None and width == given.shape[1]:
                past.check_rows(given.shape[0])
                mask = given.new_ones(given.shape[:2]) if attention_mask is None else attention_mask
                next_sequence_length = unseen_length(past.counts.to(mask.device), mask)
            if next_sequence_length is not None and next_sequence_length < 1:
                raise ValueError(
                    f"the cache has seen {past.length} positions and the input has {given.shape[1]}: nothing is left "
                    "to read. Pass the whole text with at least one new token, or new tokens alone with an "
                    "attention_mask of the whole"
                )
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE_NAME: cache},
            **kwargs,
        )

    def _whole_mask(self, given: torch.Tensor, mask: torch.Tensor | None, cache: Cache | None) -> torch.Tensor | None:
        """The mask of the whole text: the one that was given, or without one that of new tokens behind a cache."""
        if mask is not None:
            check_mask_values(mask)
        past = Past.of(cache, self.config)
        if mask is not None or past.rows is None:
            return mask
        batch, length = given.shape[:2]
        seen = torch.full((past.rows, 1), past.length) if past.counts is None else past.counts
        if past.rows % batch == 0:
            # A cache may have its rows as many times as there are beams, which transformers gives the input later.
            seen = seen[:: past.rows // batch]
        else:
            past.check_rows(batch)
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
        self, criteria: Any, written: int, length: int, mask: torch.Tensor | None
    ) -> StoppingCriteriaList | None:
        """The criteria, and that the positions are full, for an input of `length` behind which `written` goes on."""
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
