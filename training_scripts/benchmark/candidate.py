"""Candidates of the benchmark: an operator, the function that it claims to compute, and how to check that."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .machine import package_version
from .problem import HEADS, Layout, Problem


#: A function of tensors.
Operator = Callable[..., torch.Tensor]

OURS = "ours"
PEER = "peer"


@dataclass(frozen=True)
class Prepared:
    """A candidate that is ready to run on one problem.

    Attributes:
        run: from the tensors of the candidate's layout, and `parameters`, to its output.
        oracle: from query, key and value ``[batch, heads, length, dim]`` and `parameters` to the same output in our
            order, written to be read, and evaluated in float64.
        parameters: what is trained inside the operator, and gets gradients too.
    """

    run: Operator
    oracle: Operator
    parameters: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One implementation of some attention.

    Attributes:
        name: what tables call it.
        computes: the function that it computes; candidates with the same text can be compared directly.
        setup: prepares it for a problem, and raises if that cannot be done.
        origin: `OURS` or `PEER`.
        layout: the order of dimensions that it takes.
        package: the distribution that it comes from.
        install: how to install it where ``pip install <package>`` is not enough.
        longest: by mode, the greatest length at which it takes part.
        reason: why it is left out beyond.
        check_note: what the check does differently from the timed run.
        compiles: whether the first call compiles, and says nothing about the next.
        check_setup: prepares what is checked instead, where a random choice of the timed run has no oracle.
    """

    name: str
    computes: str
    setup: Callable[[Problem], Prepared]
    origin: str = PEER
    layout: Layout = HEADS
    package: str = "torch"
    install: str = ""
    longest: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    check_note: str = ""
    compiles: bool = False
    check_setup: Callable[[Problem], Prepared] | None = None


def error_text(error: BaseException, candidate: Candidate) -> str:
    """How tables show that a candidate failed: the remedy if it is not installed, else its own words."""
    if isinstance(error, ImportError) and package_version(candidate.package) is None:
        return f"not installed: {candidate.install or f'pip install {candidate.package}'}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
