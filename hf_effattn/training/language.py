"""Language models: texts cut or chunked into rows, masks, and exact scores over all tokens."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.checked_cache import checked, checked_map
from ..data.collate import IGNORED
from ..metrics import load_metric
from ..tokenization import SPECIAL_TOKENS, encode_data
from .checks import Scores


#: What `language_scores` gives; the last one only if the tokens are bytes.
LANGUAGE_SCORES = Scores(higher=(), lower=("loss", "perplexity", "bits_per_byte"))


def cut_lines(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """A row of at most `max_length` tokens for every text; blank texts are left out.

    Raises:
        ValueError: a split of blank texts.
    """
    texts = DatasetDict({name: _without_blanks(split) for name, split in splits.items()})
    if blank := [name for name, split in texts.items() if len(split) == 0]:
        raise ValueError(f"the texts of the splits {blank} are all blank")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "input_ids": encode_data(tokenizer, batch["text"], truncation=True, max_length=max_length)["input_ids"]
        }

    options = {"batched": True, "remove_columns": ["text"], "desc": f"at most {max_length} tokens"}
    return DatasetDict({name: checked_map(split, encode, **options) for name, split in texts.items()})


def _without_blanks(split: Dataset) -> Dataset:
    def is_text(row: dict[str, Any]) -> bool:
        return bool(row["text"].strip())

    return checked(lambda anew: split.filter(is_text, load_from_cache_file=not anew), split)


def chunk_texts(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int, running: bool
) -> DatasetDict:
    """The texts of each split one after the other, in rows of `max_length` tokens, the last one of what is left.

    Every row stands between the special tokens that the tokenizer puts around a text, so that a model reads what it
    will be given. Each text ends with the tokenizer's token for that, unless the rows are the lines of a `running`
    text.

    Raises:
        ValueError: the tokenizer has no token for the end of a text, `max_length` leaves no room, or a split has not
            two tokens.
    """
    front, back = frame(tokenizer)
    size = max_length - len(front) - len(back)
    if size < 1:
        raise ValueError(f"max_length {max_length} leaves no room beside {len(front) + len(back)} special tokens")
    end = [] if running else [end_of_text(tokenizer)]

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = encode_data(tokenizer, batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [ids + end for ids in encoded]}

    def chunked(split: Dataset) -> Dataset:
        encoded = checked_map(split, encode, batched=True, remove_columns=["text"], desc="tokens").with_format("numpy")
        tokens = np.concatenate([ids for batch in encoded.iter(1000) for ids in batch["input_ids"]]).astype(np.int64)
        if len(tokens) < 2:
            raise ValueError("a split has a single token or none: give it more text")
        rows = [[*front, *tokens[i : i + size].tolist(), *back] for i in range(0, len(tokens), size)]
        return Dataset.from_dict({"input_ids": rows})

    return DatasetDict({name: chunked(split) for name, split in splits.items()})


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that `tokenizer` puts in front of a text, and those behind it."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    inside = [i for i, special in enumerate(encoded["special_tokens_mask"]) if not special]
    return encoded["input_ids"][: inside[0]], encoded["input_ids"][inside[-1] + 1 :]


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends a text.

    Raises:
        ValueError: there is none.
    """
    end: int | None = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has neither eos_token nor sep_token to end a text with: set one and save it")
    return end


def with_next_tokens(splits: DatasetDict) -> DatasetDict:
    """The rows with their own tokens as `labels`, which causal models shift."""

    def with_labels(batch: dict[str, Any]) -> dict[str, Any]:
        return {"labels": batch["input_ids"]}

    return DatasetDict({name: checked_map(split, with_labels, batched=True) for name, split in splits.items()})


@dataclass
class MaskingCollator:
    """Batches of rows: those with `labels` are padded, the others masked first.

    The masks depend only on the row, the seed and the epoch: not on the number of processes or workers that share the
    rows, and not on whether the run was resumed, as masks from the random numbers of the process would.

    Attributes:
        masks: draws the masks.
        seed: of the run.
        epoch: of the training, see `EpochCallback`.
    """

    masks: DataCollatorForLanguageModeling
    seed: int
    epoch: int = 0

    def __post_init__(self) -> None:
        self.pad = DataCollatorForTokenClassification(self.masks.tokenizer)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch with `input_ids`, `attention_mask` and `labels`."""
        return dict(self.pad([row if "labels" in row else self.masked(row) for row in features]))

    def masked(self, row: dict[str, Any]) -> dict[str, Any]:
        """`input_ids` with masks in them, and `labels`."""
        key = np.asarray([self.seed, self.epoch, *row["input_ids"]], dtype=np.int64).tobytes()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
        self.masks.generator = torch.Generator().manual_seed(seed)
        ids, labels = self.masks.torch_mask_tokens(torch.tensor([row["input_ids"]]))
        # `datasets` recognises a map by what it is called with, generators left aside.
        self.masks.generator = None
        return {"input_ids": ids[0].tolist(), "labels": labels[0].tolist()}


@dataclass
class EpochCallback(TrainerCallback):
    """Tells a collator which epoch begins."""

    collate: MaskingCollator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer, before it asks for the first batch; a resumed epoch begins in its middle."""
        self.collate.epoch = int(state.epoch or 0)


def token_losses(logits: Any, labels: torch.Tensor, shift: bool) -> torch.Tensor:
    """Per row ``[batch, 3]`` of float32: the summed negative log-likelihood, its number of tokens, and of bytes.

    The number of bytes holds for the tokens of `hf_effattn.byte_tokenizer`.

    Args:
        logits: ``[batch, length, vocab]``, or a tuple with that in front.
        labels: ``[batch, length]``, -100 where nothing is predicted.
        shift: whether logits predict the label after them.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    counted = [labels.ne(IGNORED), labels >= len(SPECIAL_TOKENS)]
    return torch.stack([losses.sum(1), *(count.sum(1).float() for count in counted)], dim=1)


def language_scores(prediction: EvalPrediction, bytes_are_tokens: bool) -> dict[str, float]:
    """Mean loss of a token over all rows, its perplexity, and if tokens are bytes the bits per byte.

    The bits per byte are the loss of all tokens, ends of texts included, in bits, divided by the number of bytes.
    """
    sums, counts, in_bytes = np.asarray(prediction.predictions, dtype=np.float64).T
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    found = load_metric("perplexity").compute(predictions=means, references=counts)
    scores = {"loss": found["bits_per_token"] * math.log(2), "perplexity": found["perplexity"]}
    if bytes_are_tokens:
        scores["bits_per_byte"] = float(sums.sum() / math.log(2) / in_bytes.sum())
    return scores
