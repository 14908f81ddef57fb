"""`LraTask`, which describes a task, and the table of all tasks."""

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
    """A task: sequences of tokens or pixels, with one label per sequence or one label per token.

    Attributes:
        name: the name that ``run_lra.py --task`` takes.
        labels: names of the classes, in the order of their ids.
        sources: the sources of the data; the first one is the default.
        load: takes a source, and returns the splits ``train``, ``validation`` and ``test``. Their columns are ``text``
            and ``label``; ``image`` and ``label``; or ``input_ids`` and ``labels``, all of one length.
        tokenizer: takes the longest length, and returns the tokenizer of the texts; None if there are no texts.
        pairs: whether there is a second text, in the column ``pair_text``.
        pixels: mean and standard deviation of the pixels, which are from 0 to 1; None if there are no pictures.
        auto_class: the Auto class of the models.
        vocabulary: the number of token ids; only for tasks with neither texts nor pictures.
        length: the number of tokens in every sequence, [CLS] before pixels included; None if a run chooses the length.
        plain: whether every model reads one sequence of tokens of one length, see `for_plain_tokens`.
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
        """Return the task for models that read neither pixels nor pairs, and whose results may depend on padding.

        Pixels become tokens as in the original Long Range Arena. A pair becomes ``[CLS] first [SEP] second``. Every
        text is padded to the longest length, so no result depends on the other rows of a batch.
        """
        auto_class = "AutoModelForSequenceClassification" if self.pixels is not None else self.auto_class
        return replace(self, plain=True, auto_class=auto_class)

    def longest(self, max_length: int) -> int:
        """Return the length of the longest sequence that a model reads if each text has at most `max_length` tokens.

        The length includes [CLS]. Our models put [CLS] before the pixels of a picture as well; other models do not.
        """
        if self.plain and self.pixels is not None:
            return max_length - 1
        return 2 * max_length if self.plain and self.pairs else max_length

    def vocab_size(self) -> int | None:
        """Return the number of token ids, or None if models read pixels."""
        if self.tokenizer is not None:
            return len(self.tokenizer(0))
        return PIXEL_VOCABULARY if self.plain and self.pixels is not None else self.vocabulary

    def image_processor(self) -> ViTImageProcessorPil | None:
        """Return the processor that turns pictures into the pixels of `collator`; None if models read no pixels.

        Pictures of another size are resized to the size of the task. The pixels have three channels, which are equal
        for grey pictures. A model with one channel takes one of them, and refuses colours.
        """
        if self.pixels is None or self.plain or self.length is None:
            return None
        side, (mean, deviation) = math.isqrt(self.length - 1), self.pixels
        size = {"height": side, "width": side}
        return ViTImageProcessorPil(size=size, image_mean=[mean] * 3, image_std=[deviation] * 3)

    def collator(self, tokenizer: PreTrainedTokenizerBase | None) -> Collator:
        """Return the collator, which makes batches of rows; `tokenizer` is that of the texts."""
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
    # Mean and deviation are those of the authors; for Fashion-MNIST, those of its training pictures.
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
    """Return the task called `name`.

    Raises:
        ValueError: no task has this name.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {sorted(TASKS)}")
    return TASKS[name]
