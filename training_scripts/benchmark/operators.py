"""The group "operators": attention without projections, every candidate beside its check."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..measuring.timing import Runner, Timings, interleave
from .candidate import Candidate, error_text
from .check import Check, relative_error, run_candidate, verify
from .flops import PRODUCT_SIDE, linear_attention_flops, product_flops
from .machine import package_version
from .ours import compiled_candidate, linear_candidate, softmax_candidate
from .peers import linear_peers, other_peers
from .problem import ELU, GLU, IDENTITY, MODES, TRAINING, Problem
from .settings import Settings


#: What every ratio is taken against, and what candidates of the same function must agree with at the timed length.
BASELINE = "hf_effattn torch"

#: The runner that measures the rate of the machine's matrix product in every round.
PRODUCT = "matrix product"

#: What was checked, by candidate, problem and mode.
Checks = dict[tuple[str, Problem, str], Check]


@dataclass(frozen=True)
class Scenario:
    """Candidates that are timed together."""

    problem: Problem
    mode: str
    candidates: list[Candidate]

    @property
    def label(self) -> str:
        """What the progress bar says."""
        problem = self.problem
        direction = "causal" if problem.causal else "bidirectional"
        return f"{problem.feature_map}{problem.features} {problem.dtype} {direction} {self.mode} N={problem.length}"


def scenarios(settings: Settings) -> Iterator[Scenario]:
    """All of them: fixed map with every peer, half precision, SimpleTRON, trained maps."""
    for causal in (False, True):
        for mode in MODES:
            for length in settings.lengths:
                everyone = [*_ours(), *([compiled_candidate()] if settings.compiled else []), softmax_candidate()]
                everyone += [*linear_peers(causal), *other_peers(causal)]
                yield Scenario(Problem(length, causal), mode, everyone)
                half = Problem(length, causal, dtype="bfloat16")
                yield Scenario(half, mode, [*_ours(), softmax_candidate()])
                yield Scenario(Problem(length, causal, feature_map=IDENTITY), mode, _ours(IDENTITY))
    for mode in MODES:
        for features in settings.trained_map_features:
            problem = Problem(settings.trained_map_length, feature_map=GLU, features=features)
            yield Scenario(problem, mode, _ours(GLU))


def _ours(feature_map: str = ELU) -> list[Candidate]:
    return [linear_candidate("torch", feature_map), linear_candidate("cpu", feature_map)]


@dataclass
class Admission:
    """Decides who may be timed in a scenario.

    Attributes:
        scenario: what is measured.
        settings: at which length candidates are checked.
        checks: what was checked before.
        baseline: the output of `BASELINE` at the timed length, once it has been admitted.
    """

    scenario: Scenario
    settings: Settings
    checks: Checks
    baseline: torch.Tensor | None = None

    def admit(self, candidate: Candidate, entry: dict[str, Any]) -> Runner | None:
        """A runner if the candidate takes part and passes; `entry` says why not, or what was checked."""
        problem, mode = self.scenario.problem, self.scenario.mode
        longest = candidate.longest.get(mode)
        if longest is not None and problem.length > longest:
            entry["error"] = f"left out beyond N={longest}: {candidate.reason}"
            return None
        check = self.check(candidate)
        entry["check"] = check.as_json()
        if not check.passed:
            entry["error"] = check.failure
            return None
        call = _operator_call(candidate, problem, mode)
        started = time.perf_counter()
        output = call()[0].detach()
        seconds = time.perf_counter() - started
        entry["disagreement"] = self.disagreement(candidate, output)
        if entry["disagreement"] is not None and not entry["disagreement"] <= check.tolerance:
            difference = f"{entry['disagreement']:.1e}"
            entry["error"] = f"refused: at N={problem.length} it differs from {BASELINE} by {difference}"
            return None
        return Runner(candidate.name, call, first_seconds=0.0 if candidate.compiles else seconds)

    def check(self, candidate: Candidate) -> Check:
        """The candidate against its oracle, at the length for checks."""
        problem, mode = self.scenario.problem.at_length(self.settings.check_length), self.scenario.mode
        key = (candidate.name, problem, mode)
        if key not in self.checks:
            self.checks[key] = verify(candidate, problem, mode)
        return self.checks[key]

    def disagreement(self, candidate: Candidate, output: torch.Tensor) -> float | None:
        """How far an output at the timed length is from the baseline's, None if it is another function."""
        if candidate.name == BASELINE:
            self.baseline = output
        same = any(
            other.name == BASELINE and other.computes == candidate.computes for other in self.scenario.candidates
        )
        if candidate.name == BASELINE or self.baseline is None or not same:
            return None
        return relative_error(output, candidate.layout.output(self.baseline))


def run_operators(settings: Settings) -> dict[str, Any]:
    """Check and time every scenario."""
    checks: Checks = {}
    return {
        "scenarios": [
            measure_scenario(scenario, settings, seed, checks) for seed, scenario in enumerate(scenarios(settings))
        ]
    }


def measure_scenario(
    scenario: Scenario, settings: Settings, seed: int = 0, checks: Checks | None = None
) -> dict[str, Any]:
    """Check every candidate, time those that pass, and say of the others why they have no time.

    `checks` keeps what was checked from scenario to scenario: the timed length makes no difference to it.
    """
    entries: dict[str, dict[str, Any]] = {}
    runners = [product_runner()]
    admission = Admission(scenario, settings, {} if checks is None else checks)
    for candidate in scenario.candidates:
        entry = entries[candidate.name] = describe(candidate)
        try:
            runner = admission.admit(candidate, entry)
        except Exception as error:
            # Another library may raise anything; its error is its result.
            entry["error"] = error_text(error, candidate)
            continue
        if runner is not None:
            runners.append(runner)
    timings = interleave(runners, settings, settings.round_seconds, seed, scenario.label)
    _add_times(entries, scenario.candidates, timings)
    problem = scenario.problem
    return {
        "problem": {name: getattr(problem, name) for name in problem.__dataclass_fields__},
        "mode": scenario.mode,
        "flops": linear_attention_flops(problem, scenario.mode),
        "product": {"side": PRODUCT_SIDE, "flops": product_flops(), "seconds": timings.seconds[PRODUCT]},
        "entries": list(entries.values()),
    }


def describe(candidate: Candidate) -> dict[str, Any]:
    """What the result file says of a candidate before anything has run."""
    return {
        "name": candidate.name,
        "computes": candidate.computes,
        "origin": candidate.origin,
        "package": candidate.package,
        "version": package_version(candidate.package),
        "check": None,
        "error": None,
    }


def _operator_call(candidate: Candidate, problem: Problem, mode: str) -> Any:
    torch.manual_seed(0)
    prepared = candidate.setup(problem)
    query, key, value, gradient = problem.inputs()
    leaves = [part.requires_grad_(mode == TRAINING) for part in candidate.layout.pack(query, key, value)]
    output_gradient = candidate.layout.output(gradient)
    return lambda: run_candidate(prepared, leaves, output_gradient, mode)


def product_runner() -> Runner:
    """The product of two square matrices, whose rate is the floor under every operator."""
    left, right = torch.randn(2, PRODUCT_SIDE, PRODUCT_SIDE, generator=torch.Generator().manual_seed(0))
    return Runner(PRODUCT, lambda: left @ right)


def _add_times(entries: dict[str, dict[str, Any]], candidates: list[Candidate], timings: Timings) -> None:
    for candidate in candidates:
        entry = entries[candidate.name]
        if candidate.name in timings.errors:
            entry["error"] = error_text(timings.errors[candidate.name], candidate)
        elif candidate.name in timings.seconds:
            entry["seconds"] = timings.seconds[candidate.name]
