"""The targets for speed and memory, and whether they are reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..measuring.ratios import Spread, ratio
from .candidate import OURS
from .model_entries import BASELINE as MODEL_BASELINE
from .models import TRAINING_STEP
from .operators import BASELINE
from .problem import FORWARD, GLU, TRAINING
from .ratios import above_floor, best_peer, find_scenario, ratio_between


OUR_CPU = "hf_effattn cpu"
SOFTMAX = "torch SDPA"

#: The models that have to beat the softmax baseline and everything in transformers.
FAST_MODELS = ("simpletron", "kernel_transformer, elu")

#: Least ratios to another candidate: its name, mode, whether causal, and the bound by length.
RATIOS: list[tuple[str, str, bool, dict[int, float]]] = [
    (BASELINE, FORWARD, False, {1024: 2.5, 4096: 2.8, 16384: 3.0}),
    (BASELINE, FORWARD, True, {1024: 3.5, 4096: 4.0, 16384: 4.0}),
    (BASELINE, TRAINING, False, {4096: 2.0, 16384: 2.0}),
    (BASELINE, TRAINING, True, {4096: 2.0, 16384: 2.0}),
    (SOFTMAX, FORWARD, False, {1024: 10.0, 4096: 40.0, 16384: 150.0}),
    (SOFTMAX, TRAINING, False, {1024: 8.0, 4096: 30.0, 16384: 60.0}),
]

#: Least ratios to the fastest peer of the same function, by mode and whether causal, and the lengths.
PEER_RATIOS = {(FORWARD, False): 2.5, (FORWARD, True): 4.0, (TRAINING, False): 2.0, (TRAINING, True): 2.0}
PEER_LENGTHS = (1024, 4096, 16384)

TRAINED_MAP_FEATURES = (64, 128, 256)
LONGEST = 16384
MODEL_LENGTH = 4096
SHORT_CONTEXT, LONG_CONTEXT = 1024, 65536


@dataclass(frozen=True)
class Target:
    """A bound and what was reached.

    Attributes:
        text: what is bounded.
        bound: the bound.
        at_least: whether it is a lower bound.
        reached: the figure, None if it was not measured.
        spread: its quartiles, where it is a median over rounds.
        at_floor: the ratio that would be reached in the time that the arithmetic alone takes.
    """

    text: str
    bound: float
    at_least: bool
    reached: float | None
    spread: Spread | None = None
    at_floor: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bound holds, None if nothing was measured."""
        if self.reached is None:
            return None
        return self.reached >= self.bound if self.at_least else self.reached <= self.bound


def targets(results: dict[str, Any]) -> list[Target]:
    """All of them, in the order of the report."""
    return [
        *_operator_targets(results),
        *_peer_targets(results),
        *_floor_targets(results),
        *_model_targets(results.get("models")),
        *_memory_targets(results.get("memory")),
        *_decode_targets(results.get("decode")),
    ]


def _least(text: str, bound: float, reached: Spread | None, at_floor: float | None = None) -> Target:
    return Target(text, bound, True, None if reached is None else reached.median, reached, at_floor)


def _direction(causal: bool) -> str:
    return "causal" if causal else "bidirectional"


def _operator_targets(results: dict[str, Any]) -> Iterator[Target]:
    for other, mode, causal, bounds in RATIOS:
        for length, bound in bounds.items():
            scenario = find_scenario(results, mode, causal=causal, length=length)
            text = f"{OUR_CPU} against {other}, {mode}, {_direction(causal)}, N={length}"
            yield _least(text, bound, ratio_between(scenario, other, OUR_CPU), above_floor(scenario, other))
    for features in TRAINED_MAP_FEATURES:
        scenario = find_scenario(results, FORWARD, causal=False, length=LONGEST, feature_map=GLU, features=features)
        text = f"{OUR_CPU} against {BASELINE}, {FORWARD}, trained map with {features} features, N={LONGEST}"
        yield _least(text, 2.5, ratio_between(scenario, BASELINE, OUR_CPU), above_floor(scenario, BASELINE))


def _peer_targets(results: dict[str, Any]) -> Iterator[Target]:
    for (mode, causal), bound in PEER_RATIOS.items():
        for length in PEER_LENGTHS:
            scenario = find_scenario(results, mode, causal=causal, length=length)
            peer = best_peer(scenario)
            reached = None if peer is None else ratio_between(scenario, peer, OUR_CPU)
            named = "" if peer is None else f" ({peer})"
            text = f"{OUR_CPU} against the fastest peer{named}, {mode}, {_direction(causal)}, N={length}"
            yield _least(text, bound, reached, None if peer is None else above_floor(scenario, peer))


def _floor_targets(results: dict[str, Any]) -> Iterator[Target]:
    scenario = find_scenario(results, FORWARD, causal=False, length=LONGEST)
    text = f"{OUR_CPU} above the arithmetic floor, {FORWARD}, bidirectional, N={LONGEST}"
    yield Target(text, 1.3, False, above_floor(scenario, OUR_CPU))


def _model_targets(models: dict[str, Any] | None) -> Iterator[Target]:
    entries = {entry["name"]: entry for entry in (models or {}).get("entries", [])}
    times = {
        name: entry["seconds"][TRAINING_STEP] for name, entry in entries.items() if TRAINING_STEP in entry["seconds"]
    }
    if (models or {}).get("size", {}).get("max_position_embeddings") != MODEL_LENGTH:
        times = {}
    for name in FAST_MODELS:
        ours = times.get(name)
        theirs = times.get(MODEL_BASELINE)
        reached = None if ours is None or theirs is None else ratio(theirs, ours)
        yield _least(f"{name} against {MODEL_BASELINE}, training step, N={MODEL_LENGTH}", 3.0, reached)
        ratios = {
            peer: ratio(times[peer], ours)
            for peer, entry in entries.items()
            if ours is not None and peer in times and entry["origin"] != OURS
        }
        nearest = min(ratios, key=lambda peer: getattr(ratios[peer], "median", float("inf")), default=None)
        named = "" if nearest is None else f" ({nearest.removeprefix('transformers ')})"
        text = f"{name} against the fastest model of transformers{named}, training step, N={MODEL_LENGTH}"
        yield _least(text, 1.0, None if nearest is None else ratios[nearest])


def _memory_targets(memory: dict[str, Any] | None) -> Iterator[Target]:
    peaks = {
        (point["causal"], point["length"]): point["peak_bytes"] / point["length"]
        for point in (memory or {}).get("points", [])
        if point["name"] == OUR_CPU and point["mode"] == TRAINING and "peak_bytes" in point
    }
    for causal in (False, True):
        long, short = peaks.get((causal, LONG_CONTEXT)), peaks.get((causal, SHORT_CONTEXT))
        reached = None if long is None or short is None else long / short
        text = (
            f"{OUR_CPU}, peak memory per token, {TRAINING}, {_direction(causal)}, N={LONG_CONTEXT} / {SHORT_CONTEXT}"
        )
        yield Target(text, 1.1, False, reached)


def _decode_targets(decode: dict[str, Any] | None) -> Iterator[Target]:
    for decoder in (decode or {}).get("decoders", []):
        seconds = decoder.get("seconds", {})
        long, short = seconds.get(str(LONG_CONTEXT)), seconds.get(str(SHORT_CONTEXT))
        reached = None if long is None or short is None else ratio(long, short)
        text = f"{decoder['name']}, decoding step, after {LONG_CONTEXT} / {SHORT_CONTEXT} tokens"
        yield Target(text, 1.1, False, None if reached is None else reached.median, reached)
