"""The check beside every time: output and gradients against the candidate's float64 oracle."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from .candidate import Candidate, Prepared
from .problem import TRAINING, Problem


#: Relative root-mean-square errors above which a candidate computes something else than it claims. bfloat16 has
#: 8 bits: rounding inputs, output and gradients alone gives errors of some 0.3 %.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Check:
    """How far a candidate is from its oracle.

    Attributes:
        length: the length at which they were compared.
        errors: relative RMS error of the ``output`` and, for training, of the gradient of each input.
        tolerance: the largest error that passes.
        note: what was done differently from the timed run.
    """

    length: int
    errors: dict[str, float]
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every error is a number within the tolerance."""
        # A comparison with NaN is false: what is not finite does not pass.
        return all(error <= self.tolerance for error in self.errors.values())

    @property
    def failure(self) -> str:
        """What is wrong, for the tables."""
        wrong = {name: error for name, error in self.errors.items() if not error <= self.tolerance}
        listed = ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        return f"refused: relative error against its oracle ({listed}) above {self.tolerance:.0e}"

    def as_json(self) -> dict[str, Any]:
        """What the result file keeps."""
        return {
            "length": self.length,
            # JSON has no NaN.
            "errors": {name: e if math.isfinite(e) else str(e) for name, e in self.errors.items()},
            "tolerance": self.tolerance,
            "passed": self.passed,
            "note": self.note,
        }


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference, divided by that of `expected`."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).square().mean().sqrt()
    return float(difference / expected.square().mean().sqrt().clamp(min=1e-30))


def run_candidate(
    prepared: Prepared, leaves: list[torch.Tensor], output_gradient: torch.Tensor, mode: str
) -> tuple[torch.Tensor, ...]:
    """The output and, in training, the gradients of `leaves`, with gradients of what is trained behind them."""
    if mode != TRAINING:
        with torch.no_grad():
            return (prepared.run(*leaves, *prepared.parameters),)
    output = prepared.run(*leaves, *prepared.parameters)
    return (output, *torch.autograd.grad(output, [*leaves, *prepared.parameters], output_gradient))


def verify(candidate: Candidate, problem: Problem, mode: str) -> Check:
    """Compare a candidate with its oracle on `problem`."""
    torch.manual_seed(0)
    prepared = (candidate.check_setup or candidate.setup)(problem)
    query, key, value, gradient = problem.inputs()
    leaves = [part.requires_grad_(mode == TRAINING) for part in candidate.layout.pack(query, key, value)]
    actual = run_candidate(prepared, leaves, candidate.layout.output(gradient), mode)

    exact = [part.double().requires_grad_() for part in (query.detach(), key.detach(), value.detach())]
    parameters = [part.detach().double().requires_grad_() for part in prepared.parameters]
    expected = prepared.oracle(*exact, *parameters)
    references = {"output": candidate.layout.output(expected)}
    if mode == TRAINING:
        gradients = torch.autograd.grad(
            expected, [*exact, *parameters], gradient.double(), allow_unused=True, materialize_grads=True
        )
        packed = (*candidate.layout.pack(*gradients[:3]), *gradients[3:])
        references |= {f"gradient {index}": part for index, part in enumerate(packed)}
    errors = {
        name: relative_error(part, reference)
        for (name, reference), part in zip(references.items(), actual, strict=True)
    }
    return Check(problem.length, errors, TOLERANCE[problem.dtype], candidate.check_note)
