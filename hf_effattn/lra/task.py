"""What a task is, and the table of tasks."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from ..tokenization import byte_tokenizer
from . import listops, text


@dataclass(frozen=True)
class LraTask:
    """A task of the arena: sequences of tokens with one label each.

    Attributes:
        name: what ``run_lra.py --task`` takes.
        labels: names of the classes, in the order of their ids.
        sources: where its data can come from; the first is the default.
        load: gives the splits ``train``, ``validation`` and ``test`` with the columns ``text`` and ``label``.
        tokenizer: the tokenizer of the texts, given the longest input.
    """

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[str], DatasetDict]
    tokenizer: Callable[[int], TokenizersBackend]


TASKS = {
    "text": LraTask("text", text.LABELS, text.SOURCES, text.load_text, byte_tokenizer),
    "listops": LraTask("listops", listops.LABELS, listops.SOURCES, listops.load_listops, listops.listops_tokenizer),
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
    """The splits with `input_ids` and `attention_mask` of at most `max_length` tokens in place of the text."""

    def encode(batch: dict) -> dict:
        return tokenizer(batch["text"], truncation=True, max_length=max_length)

    return splits.map(encode, batched=True, remove_columns=["text"], desc=f"at most {max_length} tokens")
