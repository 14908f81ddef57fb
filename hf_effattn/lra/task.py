"""What a task is, and the table of tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from datasets import DatasetDict
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, TokenizersBackend, default_data_collator

from ..tokenization import byte_tokenizer
from . import image, listops, pathfinder, recall, retrieval, text
from .collate import PAIR, Collator, PairCollator, PixelCollator


@dataclass(frozen=True)
class LraTask:
    """A task: sequences of tokens or pixels with one label each, or with a label per token.

    Attributes:
        name: what ``run_lra.py --task`` takes.
        labels: names of the classes, in the order of their ids.
        sources: where its data can come from; the first is the default.
        load: gives the splits ``train``, ``validation`` and ``test``, with the columns ``text`` and ``label``;
            ``image`` and ``label``; or ``input_ids`` and ``labels``, of one length.
        tokenizer: the tokenizer of the texts, given the longest input; None if there are no texts.
        pairs: whether there is a second text, in the column ``pair_text``.
        pixels: mean and standard deviation of pictures, whose pixels are from 0 to 1; None if there are none.
        auto_class: the Auto class of the models.
    """

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[str], DatasetDict]
    tokenizer: Callable[[int], TokenizersBackend] | None
    pairs: bool = False
    pixels: tuple[float, float] | None = None
    auto_class: str = "AutoModelForSequenceClassification"

    def collator(self, tokenizer: PreTrainedTokenizerBase | None) -> Collator:
        """What makes batches of rows, given the tokenizer of the texts."""
        if self.pixels is not None:
            return PixelCollator(*self.pixels)
        if tokenizer is None:
            return default_data_collator
        return (PairCollator if self.pairs else DataCollatorWithPadding)(tokenizer)


def _picture_task(
    name: str,
    labels: tuple[str, ...],
    sources: tuple[str, ...],
    load: Callable[[str], DatasetDict],
    pixels: tuple[float, float],
) -> LraTask:
    auto_class = "AutoModelForImageClassification"
    return LraTask(name, labels, sources, load, tokenizer=None, pixels=pixels, auto_class=auto_class)


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
    # Means and deviations are the authors', and for Fashion-MNIST those of its training pictures.
    "image": _picture_task("image", image.CIFAR_LABELS, image.CIFAR_SOURCES, image.load_image, (0.48, 0.24)),
    "fashion_mnist": _picture_task(
        "fashion_mnist", image.FASHION_LABELS, image.FASHION_SOURCES, image.load_fashion_mnist, (0.286, 0.353)
    ),
    **{
        name: _picture_task(
            name,
            pathfinder.LABELS,
            pathfinder.SOURCES,
            partial(pathfinder.load_pathfinder, size=size, difficulty=difficulty),
            (0.5, 0.5),
        )
        for name, size, difficulty in (
            ("pathfinder", 32, "hard"),
            ("pathfinder_easy", 32, "easy"),
            ("pathfinder_intermediate", 32, "intermediate"),
            ("path_x", 128, "hard"),
        )
    },
    "recall": LraTask(
        "recall",
        recall.LABELS,
        recall.SOURCES,
        recall.load_recall,
        tokenizer=None,
        auto_class="AutoModelForTokenClassification",
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


def tokenize(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> DatasetDict:
    """The splits with `input_ids` and `attention_mask` of at most `max_length` tokens in place of the text, if any.

    The second texts of pairs become ``pair_input_ids`` and ``pair_attention_mask``.
    """

    if tokenizer is None:
        return splits

    def encode(batch: dict) -> dict:
        encoded = dict(tokenizer(batch["text"], truncation=True, max_length=max_length))
        if "pair_text" in batch:
            second = tokenizer(batch["pair_text"], truncation=True, max_length=max_length)
            encoded |= {PAIR + name: value for name, value in second.items()}
        return encoded

    texts = [name for name in splits["train"].column_names if name != "label"]
    return splits.map(encode, batched=True, remove_columns=texts, desc=f"at most {max_length} tokens")
