"""What a task is, and the table of tasks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from . import text


@dataclass(frozen=True)
class LraTask:
    """A task of the arena: sequences of tokens with one label each.

    Attributes:
        name: what ``run_lra.py --task`` takes.
        labels: names of the classes, in the order of their ids.
        sources: where its data can come from; the first is the default.
        load: gives the splits ``train``, ``validation`` and ``test`` with the columns ``text`` and ``label``.
    """

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[str], DatasetDict]


TASKS = {"text": LraTask(name="text", labels=text.LABELS, sources=text.SOURCES, load=text.load_text)}


def get_task(name: str) -> LraTask:
    """The task called `name`.

    Raises:
        ValueError: if there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {sorted(TASKS)}")
    return TASKS[name]


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """The splits with `input_ids` and `attention_mask` of at most `max_length` tokens in place of the text."""

    def encode(batch: dict) -> dict:
        return tokenizer(batch["text"], truncation=True, max_length=max_length)

    return splits.map(encode, batched=True, remove_columns=["text"], desc=f"bytes, at most {max_length}")


def content_checksum(split: Dataset) -> str:
    """SHA-256 over the texts and labels of a split, in their order."""
    digest = hashlib.sha256()
    for text_, label in zip(split["text"], split["label"], strict=True):
        digest.update(f"{label}\0{text_}\0".encode())
    return digest.hexdigest()
