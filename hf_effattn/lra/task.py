"""What a task is, and the table of tasks."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from ..tokenization import byte_tokenizer
from . import listops, retrieval, text
from .collate import PAIR


@dataclass(frozen=True)
class LraTask:
    """A task of the arena: sequences of tokens with one label each.

    Attributes:
        name: what ``run_lra.py --task`` takes.
        labels: names of the classes, in the order of their ids.
        sources: where its data can come from; the first is the default.
        load: gives the splits ``train``, ``validation`` and ``test`` with the columns ``text`` and ``label``.
        tokenizer: the tokenizer of the texts, given the longest input.
        pairs: whether there is a second text, in the column ``pair_text``.
    """

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[str], DatasetDict]
    tokenizer: Callable[[int], TokenizersBackend]
    pairs: bool = False


TASKS = {
    "text": LraTask("text", text.LABELS, text.SOURCES, text.load_text, byte_tokenizer),
    "listops": LraTask("listops", listops.LABELS, listops.SOURCES, listops.load_listops, listops.listops_tokenizer),
    "retrieval": LraTask(
        "retrieval", retrieval.LABELS, retrieval.SOURCES, retrieval.load_retrieval, byte_tokenizer, pairs=True
    ),
    "retrieval_reviews": LraTask(
        "retrieval_reviews",
        retrieval.LABELS,
        text.SOURCES,
        retrieval.load_retrieval_reviews,
        byte_tokenizer,
        pairs=True,
    ),
}


def get_task(name: str) -> LraTask:
    """The task called `name`.

    Raises:
        ValueError: if there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {sorted(TASKS)}")
    return TASKS[name]


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """The splits with `input_ids` and `attention_mask` of at most `max_length` tokens in place of the text.

    The second texts of pairs become ``pair_input_ids`` and ``pair_attention_mask``.
    """

    def encode(batch: dict) -> dict:
        encoded = dict(tokenizer(batch["text"], truncation=True, max_length=max_length))
        if "pair_text" in batch:
            second = tokenizer(batch["pair_text"], truncation=True, max_length=max_length)
            encoded |= {PAIR + name: value for name, value in second.items()}
        return encoded

    texts = [name for name in splits["train"].column_names if name != "label"]
    return splits.map(encode, batched=True, remove_columns=texts, desc=f"at most {max_length} tokens")
