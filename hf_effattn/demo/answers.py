"""What the page asks a classifier: its answer to a text, what it looks at, and how long it takes."""

import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..diagnostics.collect import diagnose
from ..tokenization import encode_data
from .models import LoadedModel


#: What the box is called by which long texts are cut.
CUT = "Cut texts that are too long"

#: The longest text of which a map of all pairs of tokens is drawn; beyond it, nothing in it could be seen.
LONGEST_MAP = 512

#: The longest input that is timed of a model that reads any length.
LONGEST_TIMED = 16_384

#: Seconds for the times of one model; then longer texts are left out.
PATIENCE = 10.0

#: A length is timed in at least and at most so many passes, and in between until they took `ENOUGH` seconds.
PASSES = (5, 50)
ENOUGH = 0.3

#: What the measures of `diagnose` say.
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
    """What a classifier says of a text.

    Attributes:
        name: the model.
        shares: labels with their probabilities, the most probable first; of a model that gives numbers, with those.
        kind: ``"one"`` of the labels is right, ``"any"`` number of them, or it is a ``"number"``.
        tokens: how many it has read, of both texts.
        left_out: how many were cut off.
    """

    name: str
    shares: tuple[tuple[str, float], ...]
    kind: str
    tokens: int
    left_out: int


def encode(
    loaded: LoadedModel, text: str, second: str = "", cut: bool = False
) -> tuple[dict[str, torch.Tensor], int, int]:
    """The model's inputs for a text or a pair, how many tokens they have, and how many were cut off.

    Raises:
        ValueError: a text is missing, or it has more tokens than the model has positions and is not to be cut.
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
    """The model's answer to a text, or to a pair of texts.

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
    """Rows of layer, meaning and value, from `diagnose`; and its warnings.

    Raises:
        ValueError: a family whose layers have no such measures.
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
    """Raise ValueError if the map of a text would show nothing: it is wide, and the text longer than `LONGEST_MAP`."""
    if loaded.has_wide_maps and tokens > LONGEST_MAP:
        raise ValueError(
            f"attention is drawn for texts of up to {LONGEST_MAP} tokens, and this one has {tokens:,}: choose a "
            "part of it"
        )


def timed_lengths(limit: int | None) -> list[int]:
    """The lengths at which a model is timed: powers of two up to its last position, and that one itself."""
    longest = LONGEST_TIMED if limit is None else limit
    return [*(2**power for power in range(6, longest.bit_length()) if 2**power < longest), longest]


@torch.no_grad()
def measure_times(loaded: LoadedModel, patience: float = PATIENCE) -> Iterator[tuple[int, float]]:
    """Lengths, and the median seconds of a forward pass of one text of so many random tokens, growing.

    After `patience` seconds no further length is begun.
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    for length in timed_lengths(loaded.limit):
        ids = torch.randint(loaded.model.config.vocab_size, (1, length), generator=generator).to(loaded.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if loaded.takes_pairs:
            inputs |= {f"pair_{name}": tensor for name, tensor in inputs.items()}
        # The first pass may compile kernels, and fills caches.
        _timed(loaded, inputs)
        seconds = [_timed(loaded, inputs)]
        while len(seconds) < PASSES[0] or (len(seconds) < PASSES[1] and sum(seconds) < ENOUGH):
            seconds.append(_timed(loaded, inputs))
        yield length, statistics.median(seconds)
        if time.perf_counter() - began > patience:
            return


def _timed(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> float:
    started = time.perf_counter()
    # Reading a number waits for devices that work behind the caller's back.
    float(loaded.model(**inputs).logits.flatten()[0])
    return time.perf_counter() - started
