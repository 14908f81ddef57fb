"""Look-ups in the results of the operators: scenarios, times of a candidate, and the ratio of two."""

from typing import Any

from ..measuring.ratios import Spread, Times, median_seconds, ratio
from .candidate import OURS
from .operators import BASELINE
from .problem import ELU


def find_scenario(results: dict[str, Any], mode: str, **problem: Any) -> dict[str, Any] | None:
    """The scenario of the operators with these fields, elu + 1 with 64 features in float32 unless said otherwise."""
    wanted = {"feature_map": ELU, "dtype": "float32", "features": 64} | problem
    scenarios: list[dict[str, Any]] = results.get("operators", {}).get("scenarios", [])
    for scenario in scenarios:
        fields = scenario["problem"]
        if scenario["mode"] == mode and all(fields[name] == value for name, value in wanted.items()):
            return scenario
    return None


def times_of(scenario: dict[str, Any] | None, name: str) -> Times | None:
    """The times of a candidate, None if it has none."""
    entries = [] if scenario is None else scenario["entries"]
    return next((entry.get("seconds") for entry in entries if entry["name"] == name), None)


def ratio_between(scenario: dict[str, Any] | None, slower: str, faster: str) -> Spread | None:
    """The ratio of two candidates of a scenario, None unless both were timed."""
    over, under = times_of(scenario, slower), times_of(scenario, faster)
    return None if over is None or under is None else ratio(over, under)


def best_peer(scenario: dict[str, Any] | None) -> str | None:
    """The fastest candidate of others that computes the same function as ours."""
    if scenario is None:
        return None
    computes = next((entry["computes"] for entry in scenario["entries"] if entry["name"] == BASELINE), None)
    peers = {
        entry["name"]: median_seconds(entry["seconds"])
        for entry in scenario["entries"]
        if entry["origin"] != OURS and entry["computes"] == computes and "seconds" in entry
    }
    return min(peers, key=lambda name: peers[name]) if peers else None


def floor_seconds(scenario: dict[str, Any]) -> float:
    """The least time for the scenario's arithmetic, at the best rate that the matrix product reached beside it."""
    product = scenario["product"]
    rate: float = product["flops"] / min(value for value in product["seconds"] if value is not None)
    return float(scenario["flops"] / rate)


def above_floor(scenario: dict[str, Any] | None, name: str) -> float | None:
    """Median time of a candidate as a multiple of `floor_seconds`."""
    times = times_of(scenario, name)
    return None if scenario is None or times is None else median_seconds(times) / floor_seconds(scenario)
