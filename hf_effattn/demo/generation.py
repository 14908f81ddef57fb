"""Streams the text of a decoder, with the size of its state beside the size of a key-value cache."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.cache_utils import Cache, DynamicCache

from ..tokenization import encode_data
from .answers import CUT
from .models import LoadedModel


#: Seconds without a new piece of text after which the generation is given up.
PATIENCE = 120.0


@dataclass(frozen=True)
class Generated:
    """A text while it is generated.

    Attributes:
        text: the text that the model has written so far.
        tokens: number of tokens in the state, those of the prompt included.
        state_bytes: size of the state in bytes.
        key_value_bytes: size of a key-value cache of the same depth and width, for the same number of tokens.
        left_out: number of tokens that were cut off at the beginning of the prompt.
        is_full: whether the text has reached the model's last position.
    """

    text: str
    tokens: int
    state_bytes: int
    key_value_bytes: int
    left_out: int
    is_full: bool = False


class _Stop(StoppingCriteria):
    """Ends a generation when `asked` is set, and counts the tokens that the model has read."""

    def __init__(self, prompt: int) -> None:
        self.asked = threading.Event()
        self.tokens = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        # The model has written the last token, but has not read it yet.
        self.tokens = input_ids.shape[1] - 1
        return torch.full((input_ids.shape[0],), self.asked.is_set(), dtype=torch.bool, device=input_ids.device)


def prompt_ids(loaded: LoadedModel, prompt: str, new_tokens: int, cut: bool) -> tuple[list[int], int]:
    """Return the tokens of a prompt, and how many were cut off at its beginning to leave room for `new_tokens`.

    Raises:
        ValueError: the prompt has no tokens; or it is longer than the model's positions, and `cut` is False.
    """
    ids = encode_data(loaded.tokenizer, [prompt])["input_ids"][0]
    if not ids:
        raise ValueError("there is no text to go on from: type one")
    if loaded.limit is None or len(ids) <= loaded.limit:
        return ids, 0
    if not cut:
        raise ValueError(
            f"the text to go on from has {len(ids):,} {loaded.unit}, and {loaded.name} reads at most "
            f"{loaded.limit:,}: shorten it, or tick “{CUT}”"
        )
    room = max(1, loaded.limit - new_tokens)
    # A special token at the beginning, such as [CLS], stays in front of the end that is kept.
    start = ids[:1] if ids[0] in loaded.tokenizer.all_special_ids and room > 1 else []
    kept = [*start, *ids[len(ids) - room + len(start) :]]
    return kept, len(ids) - len(kept)


def generate(
    loaded: LoadedModel, prompt: str, new_tokens: int = 100, temperature: float = 0.8, cut: bool = False
) -> Iterator[Generated]:
    """Give the text that a decoder writes after a prompt, while it grows. Closing the iterator ends the generation.

    Args:
        loaded: the decoder.
        prompt: the text to go on from.
        new_tokens: the largest number of tokens to write.
        temperature: the logits are divided by it before a token is drawn; at 0 the most probable token is taken.
        cut: cut off the beginning of a prompt that is longer than the model's positions.

    Raises:
        ValueError: see `prompt_ids`.
        RuntimeError: the generation fails.
    """
    ids, left_out = prompt_ids(loaded, prompt, new_tokens, cut)
    inputs = torch.tensor([ids], device=loaded.model.device)
    config = loaded.model.config
    cache = DynamicCache(config=config)
    model: Any = loaded.model
    tokenizer: Any = loaded.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=PATIENCE, skip_special_tokens=True)
    stop = _Stop(len(ids))
    draw = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    failed: list[BaseException] = []

    def work() -> None:
        try:
            model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                cache=cache,
                max_new_tokens=new_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([stop]),
                pad_token_id=config.pad_token_id,
                **draw,
            )
        except BaseException as error:
            failed.append(error)
        finally:
            # After a failure the loop below must not wait for more text.
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    text = ""
    try:
        for piece in streamer:
            text += piece
            sizes = state_bytes(cache), key_value_bytes(loaded, stop.tokens)
            yield Generated(text, stop.tokens, *sizes, left_out)
    finally:
        stop.asked.set()
        thread.join()
    if failed:
        raise RuntimeError(f"the generation failed: {failed[0]}") from failed[0]
    sizes = state_bytes(cache), key_value_bytes(loaded, stop.tokens)
    yield Generated(text, stop.tokens, *sizes, left_out, is_full=stop.tokens == loaded.limit)


def state_bytes(cache: Cache) -> int:
    """Return the size of all tensors of a cache, in bytes."""
    return sum(_bytes(value) for layer in cache.layers for value in list(vars(layer).values()))


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(inner) for inner in list(value.values()))
    return sum(_bytes(inner) for inner in value) if isinstance(value, list | tuple) else 0


def key_value_bytes(loaded: LoadedModel, tokens: int) -> int:
    """Return the bytes of a key-value cache of the model's depth and width: ``2 * layers * hidden_size * tokens``."""
    config = loaded.model.config
    numbers: int = 2 * config.num_hidden_layers * config.hidden_size * tokens
    return numbers * loaded.model.dtype.itemsize
