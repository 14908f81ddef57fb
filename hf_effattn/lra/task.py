"""What a task is, and the table of tasks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from datasets import DatasetDict
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TokenizersBackend,
    ViTImageProcessorPil,
    default_data_collator,
)

from ..data.collate import Collator, PairCollator
from ..tokenization import byte_tokenizer
from . import image, listops, pathfinder, pathfinder_tracing, recall, retrieval, text
from .collate import PIXEL_VOCABULARY, PixelCollator, PixelTokenCollator


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
        vocabulary: token ids that occur, of tasks with neither texts nor pictures.
        length: tokens of every sequence, [CLS] before pixels included; None where texts are cut at what a run says.
        plain: whether models read one sequence of tokens, all of one length, see `for_plain_tokens`.
    """

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    load: Callable[[str], DatasetDict]
    tokenizer: Callable[[int], TokenizersBackend] | None
    pairs: bool = False
    pixels: tuple[float, float] | None = None
    auto_class: str = "AutoModelForSequenceClassification"
    vocabulary: int | None = None
    length: int | None = None
    plain: bool = False

    def for_plain_tokens(self) -> "LraTask":
        """The task for models that read neither pixels nor pairs, and that padding may disturb.

        Pixels become tokens as in the original arena, a pair becomes ``[CLS] first [SEP] second``, and every text is
        padded to the longest length, so that no result depends on what else is in a batch.
        """
        auto_class = "AutoModelForSequenceClassification" if self.pixels is not None else self.auto_class
        return replace(self, plain=True, auto_class=auto_class)

    def longest(self, max_length: int) -> int:
        """Positions of the longest sequence that a model reads, where each text has at most `max_length` tokens.

        That counts [CLS], which our models put before the pixels of a picture as well, and others do not.
        """
        if self.plain and self.pixels is not None:
            return max_length - 1
        return 2 * max_length if self.plain and self.pairs else max_length

    def vocab_size(self) -> int | None:
        """Token ids that occur, or None if models read pixels."""
        if self.tokenizer is not None:
            return len(self.tokenizer(0))
        return PIXEL_VOCABULARY if self.plain and self.pixels is not None else self.vocabulary

    def image_processor(self) -> ViTImageProcessorPil | None:
        """What makes of a picture, also in RGB, the pixels of `collator`; None if models read no pixels.

        Pictures of another size get that of the task. It has three channels, which are equal where pictures are grey;
        models of one channel take one of them, and refuse colours.
        """
        if self.pixels is None or self.plain or self.length is None:
            return None
        side, (mean, deviation) = math.isqrt(self.length - 1), self.pixels
        size = {"height": side, "width": side}
        return ViTImageProcessorPil(size=size, image_mean=[mean] * 3, image_std=[deviation] * 3)

    def collator(self, tokenizer: PreTrainedTokenizerBase | None) -> Collator:
        """What makes batches of rows, given the tokenizer of the texts."""
        if self.pixels is not None:
            return PixelTokenCollator() if self.plain else PixelCollator(*self.pixels)
        if tokenizer is None:
            return default_data_collator
        if self.plain:
            return DataCollatorWithPadding(tokenizer, "max_length", tokenizer.model_max_length)
        return (PairCollator if self.pairs else DataCollatorWithPadding)(tokenizer)


def _picture_task(
    name: str,
    labels: tuple[str, ...],
    sources: tuple[str, ...],
    load: Callable[[str], DatasetDict],
    pixels: tuple[float, float],
    side: int,
) -> LraTask:
    return LraTask(
        name,
        labels,
        sources,
        load,
        tokenizer=None,
        pixels=pixels,
        auto_class="AutoModelForImageClassification",
        length=side**2 + 1,
    )


TASKS = {
    "text": LraTask("text", text.LABELS, text.SOURCES, text.load_text, byte_tokenizer),
    **{
        name: LraTask(
            name,
            listops.LABELS,
            listops.SOURCES,
            partial(listops.load_listops, task=name),
            listops.listops_tokenizer,
        )
        for name in listops.DISTRIBUTIONS
    },
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
    "image": _picture_task("image", image.CIFAR_LABELS, image.CIFAR_SOURCES, image.load_image, (0.48, 0.24), 32),
    "fashion_mnist": _picture_task(
        "fashion_mnist", image.FASHION_LABELS, image.FASHION_SOURCES, image.load_fashion_mnist, (0.286, 0.353), 28
    ),
    **{
        name: _picture_task(
            name,
            pathfinder.LABELS,
            pathfinder.SOURCES,
            partial(pathfinder.load_pathfinder, size=size, difficulty=difficulty),
            (0.5, 0.5),
            size,
        )
        for name, size, difficulty in (
            ("pathfinder", 32, "hard"),
            ("pathfinder_easy", 32, "easy"),
            ("pathfinder_intermediate", 32, "intermediate"),
            ("path_x", 128, "hard"),
            ("path_x_easy", 128, "easy"),
            ("path_x_intermediate", 128, "intermediate"),
        )
    },
    "pathfinder_tracing": LraTask(
        "pathfinder_tracing",
        pathfinder_tracing.LABELS,
        pathfinder_tracing.SOURCES,
        pathfinder_tracing.load_tracing,
        tokenizer=None,
        auto_class="AutoModelForTokenClassification",
        vocabulary=PIXEL_VOCABULARY,
        length=pathfinder_tracing.PARAMETERS.size**2,
    ),
    **{
        name: LraTask(
            name,
            tuple(str(value) for value in range(parameters.values)),
            recall.SOURCES,
            partial(recall.load_recall, task=name),
            tokenizer=None,
            auto_class="AutoModelForTokenClassification",
            vocabulary=parameters.vocab_size,
            length=parameters.length,
        )
        for name, parameters in recall.TASKS.items()
    },
}


def get_task(name: str) -> LraTask:
    """The task called `name`.

    Raises:
        ValueError: if there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {sorted(TASKS)}")
    return TASKS[name]
