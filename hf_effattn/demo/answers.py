"""Computes what the page shows of a classifier: its answers, its measures and its times."""

import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..diagnostics.collect import diagnose
from ..tokenization import encode_data
from .models import LoadedModel


#: The label of the checkbox that allows to cut long texts.
CUT = "Cut texts that are too long"

#: The longest text whose map of all pairs of tokens is drawn. In a larger map nothing could be recognised.
LONGEST_MAP = 512

#: The longest input in the timing of a model without a limit of its length.
LONGEST_TIMED = 16_384

#: Seconds after which the timing of a model stops, and longer texts are left out.
PATIENCE = 10.0

#: The least and the most passes for one length. Between these numbers, passes stop after `ENOUGH` seconds.
PASSES = (5, 50)
ENOUGH = 0.3

#: Explanations of the measures of `diagnose`.
MEANINGS = {
    "memory_stable_rank": "stable rank of the memory: how many directions share its energy",
    "memory_effective_rank": "effective rank of the memory: how many directions it uses",
    "memory_cosine": "mean cosine of two memory cells: 1 when all are the same",
    "pack_entropy": "entropy of what the memory reads: 1 when every token counts the same",
    "unpack_entropy": "entropy of what tokens read of the memory: 1 when every cell counts the same",
    "state_norm": "norm of the state that linear attention keeps",
    "denominator_min": "least denominator of kernel attention",
    "denominator_max": "greatest denominator of kernel attention",
    "weight_sum_min": "least sum of the weights of a token: 1 when none is lost",
    "orthogonality_error": "distance of the trained feature map from an orthogonal one",
}


@dataclass(frozen=True)
class Answer:
    """The answer of a classifier to a text.

    Attributes:
        name: the name of the model.
        shares: labels with their probabilities, the most probable first; for a regression, labels with the numbers.
        kind: ``"one"`` if exactly one label is right, ``"any"`` if several can be, ``"number"`` for a regression.
        tokens: number of tokens that the model read, of both texts together.
        left_out: number of tokens that were cut off.
    """

    name: str
    shares: tuple[tuple[str, float], ...]
    kind: str
    tokens: int
    left_out: int


def encode(
    loaded: LoadedModel, text: str, second: str = "", cut: bool = False
) -> tuple[dict[str, torch.Tensor], int, int]:
    """Return the model's inputs for a text or a pair, their number of tokens, and how many tokens were cut off.

    Args:
        loaded: the model.
        text: the text, or the first one of a pair.
        second: the second text; only models of pairs read it.
        cut: cut a text that is longer than the model's positions.

    Raises:
        ValueError: a text is missing, or it is longer than the model's positions and `cut` is False.
    """
    if not text.strip():
        raise ValueError("there is no text yet: type or paste one")
    if loaded.takes_pairs and not second.strip():
        raise ValueError(f"{loaded.name} compares two texts: type or paste the second one too")
    inputs: dict[str, torch.Tensor] = {}
    read = left_out = 0
    for prefix, part in (("", text), ("pair_", second))[: 1 + loaded.takes_pairs]:
        ids = encode_data(loaded.tokenizer, [part])["input_ids"][0]
        if loaded.limit is not None and len(ids) > loaded.limit:
            if not cut:
                raise ValueError(
                    f"the text has {len(ids):,} {loaded.unit}, and {loaded.name} reads at most {loaded.limit:,}: "
                    f"shorten it, or tick “{CUT}”"
                )
            kept = encode_data(loaded.tokenizer, [part], truncation=True, max_length=loaded.limit)["input_ids"][0]
            left_out += len(ids) - len(kept)
            ids = kept
        read += len(ids)
        inputs[prefix + "input_ids"] = torch.tensor([ids], device=loaded.model.device)
        inputs[prefix + "attention_mask"] = torch.ones_like(inputs[prefix + "input_ids"])
    return inputs, read, left_out


@torch.no_grad()
def classify(loaded: LoadedModel, text: str, second: str = "", cut: bool = False) -> Answer:
    """Return the model's answer to a text, or to a pair of texts; the arguments are those of `encode`.

    Raises:
        ValueError: see `encode`.
    """
    inputs, tokens, left_out = encode(loaded, text, second, cut)
    logits = loaded.model(**inputs).logits[0].double().cpu()
    config = loaded.model.config
    labels: dict[int, str] = config.id2label or {}  # type: ignore[assignment]
    kind = "one"
    if config.num_labels == 1 or config.problem_type == "regression":
        kind, shares = "number", logits
    elif config.problem_type == "multi_label_classification":
        kind, shares = "any", logits.sigmoid()
    else:
        shares = logits.softmax(-1)
    named = [(str(labels.get(index, index)), value) for index, value in enumerate(shares.tolist())]
    if kind != "number":
        named.sort(key=lambda item: -item[1])
    return Answer(loaded.name, tuple(named), kind, tokens, left_out)


def measures(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> tuple[list[tuple[str, str, float]], list[str]]:
    """Return the measures of `diagnose` as rows of layer, explanation and value, and the warnings of `diagnose`.

    Raises:
        ValueError: the layers of the family have no such measures.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = diagnose(loaded.model, **inputs)  # type: ignore[arg-type]
    rows = []
    for name, value in found.items():
        place, _, measure = name.partition("/")
        rows.append((place.replace("_", " "), MEANINGS.get(measure, measure), value))
    return rows, [str(warning.message) for warning in caught]


def check_map(loaded: LoadedModel, tokens: int) -> None:
    """Raise ValueError if the model's maps are as wide as the text, and the text is longer than `LONGEST_MAP`."""
    if loaded.has_wide_maps and tokens > LONGEST_MAP:
        raise ValueError(
            f"attention is drawn for texts of up to {LONGEST_MAP} tokens, and this one has {tokens:,}: choose a "
            "part of it"
        )


def timed_lengths(limit: int | None) -> list[int]:
    """Return the lengths at which a model is timed: powers of two from 64 on, and the last position."""
    longest = LONGEST_TIMED if limit is None else limit
    return [*(2**power for power in range(6, longest.bit_length()) if 2**power < longest), longest]


@torch.no_grad()
def measure_times(loaded: LoadedModel, patience: float = PATIENCE) -> Iterator[tuple[int, float]]:
    """Time forward passes of one text of random tokens: give each length, from short to long, with its median seconds.

    No further length is timed after `patience` seconds.
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    for length in timed_lengths(loaded.limit):
        ids = torch.randint(loaded.model.config.vocab_size, (1, length), generator=generator).to(loaded.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if loaded.takes_pairs:
            inputs |= {f"pair_{name}": tensor for name, tensor in inputs.items()}
        # The first pass may compile kernels, so it does not count.
        _timed(loaded, inputs)
        seconds = [_timed(loaded, inputs)]
        while len(seconds) < PASSES[0] or (len(seconds) < PASSES[1] and sum(seconds) < ENOUGH):
            seconds.append(_timed(loaded, inputs))
        yield length, statistics.median(seconds)
        if time.perf_counter() - began > patience:
            return


def _timed(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> float:
    started = time.perf_counter()
    # A GPU works asynchronously; reading a number waits for it.
    float(loaded.model(**inputs).logits.flatten()[0])
    return time.perf_counter() - started
