"""Texts become tokens."""

from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from ..tokenization import encode_data
from .checked_cache import checked_map
from .collate import PAIR


def tokenize(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase | None, max_length: int, joined: bool = False
) -> DatasetDict:
    """The splits with `input_ids` and `attention_mask` of at most `max_length` tokens in place of the text, if any.

    The second texts of pairs become ``pair_input_ids`` and ``pair_attention_mask``, or, if they are to be `joined`,
    follow the first ones in a sequence of twice the length, in which the longer text takes what the other leaves.
    """
    if tokenizer is None:
        return splits

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        if joined and "pair_text" in batch:
            both = batch["text"], batch["pair_text"]
            return dict(encode_data(tokenizer, *both, truncation="longest_first", max_length=2 * max_length))
        encoded = dict(encode_data(tokenizer, batch["text"], truncation=True, max_length=max_length))
        if "pair_text" in batch:
            second = encode_data(tokenizer, batch["pair_text"], truncation=True, max_length=max_length)
            encoded |= {PAIR + name: value for name, value in second.items()}
        return encoded

    texts = [name for name in splits["train"].column_names if name != "label"]
    options = {"batched": True, "remove_columns": texts, "desc": f"at most {max_length} tokens"}
    return DatasetDict({name: checked_map(split, encode, **options) for name, split in splits.items()})
