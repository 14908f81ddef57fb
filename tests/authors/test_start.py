"""The authors' presets start as the authors' classifiers do, parameter by parameter and at the presets' sizes."""

from dataclasses import replace

import pytest
import torch

from tests.authors.classifiers import Start, parameters
from tests.authors.compare import build, preset
from tests.authors.published import OTHER_SCALE, PRESETS, VARIANTS, Case
from tests.authors.translate import translate


#: How many standard errors a statistic of a fair draw may be off.
ERRORS = 5


def starts(case: Case) -> dict[str, Start]:
    named = parameters(case.design)
    if case.cls_at_zero:
        named["cls"] = replace(named["cls"], law="constant", scale=0.0)
    return named


def fault(tensor: torch.Tensor, start: Start) -> str | None:
    """What shows that `tensor` was not drawn by the law of `start`."""
    if start.pad:
        if tensor[0].any():
            return "padding is not zero"
        tensor = tensor[1:]
    if start.law == "constant":
        return None if (tensor == start.scale).all() else f"not all {start.scale}"
    if start.law == "orthogonal":
        gram = tensor @ tensor.transpose(1, 2)
        return None if torch.allclose(gram, torch.eye(gram.shape[1]), atol=1e-5) else "not orthogonal"
    size, largest = tensor.numel(), float(tensor.abs().max())
    deviation = start.scale if start.law == "normal" else start.scale / 3**0.5
    if abs(float(tensor.mean())) > ERRORS * deviation / size**0.5:
        return f"mean {tensor.mean():.3g}"
    # The root of the mean square of `size` draws has a standard error of at most deviation / sqrt(2 size).
    found = float(tensor.pow(2).mean().sqrt())
    if abs(found - deviation) > ERRORS * deviation / (2 * size) ** 0.5:
        return f"deviation {found:.3g}, not {deviation:.3g}"
    if start.law == "uniform" and largest > start.scale * (1 + 1e-6):
        return f"{largest:.3g} lies beyond the bound {start.scale:.3g}"
    if start.law == "normal" and size >= 1000 and largest < 2.5 * deviation:
        return f"nothing lies beyond {largest:.3g}, so it is not normal"
    return None


@pytest.mark.parametrize("case", [*PRESETS, *VARIANTS, *OTHER_SCALE], ids=lambda case: case.name)
def test_every_parameter_starts_by_the_authors_law(case):
    torch.manual_seed(0)
    theta, _ = translate(case.design, {name: p.detach() for name, p in build(preset(case)).named_parameters()})
    faults = {name: fault(theta[name], start) for name, start in starts(case).items()}
    assert not any(faults.values()), {name: found for name, found in faults.items() if found}


@pytest.mark.parametrize(
    ("drawn", "start"),
    [
        (lambda: 0.02 * torch.randn(64, 64), Start((64, 64), "normal", 1.0)),
        (lambda: torch.rand(64, 64) - 0.5, Start((64, 64), "normal", 12**-0.5)),
        (lambda: torch.randn(64, 64) / 12**0.5, Start((64, 64), "uniform", 0.5)),
        (lambda: torch.rand(64, 64), Start((64, 64), "uniform", 1.0)),
        (lambda: torch.zeros(64), Start((64,), "uniform", 0.1)),
        (lambda: torch.randn(64, 64), Start((64, 64), "normal", 1.0, pad=True)),
        (lambda: torch.randn(2, 8, 8), Start((2, 8, 8), "orthogonal")),
        (lambda: torch.full((8,), 1e-3), Start((8,), "constant")),
    ],
)
def test_another_law_is_told_apart(drawn, start):
    torch.manual_seed(0)
    assert fault(drawn(), start)
