"""The authors' presets compute what the authors' classifiers compute, and are made of the same parameters."""

import math

import pytest
import torch

from tests.authors.classifiers import parameters
from tests.authors.compare import Comparison, build, comparisons, preset
from tests.authors.published import OTHER_SCALE, PRESETS, VARIANTS, Case
from tests.authors.translate import translate


NEAR = 1e-10


def _label(value) -> str:
    return value.name if isinstance(value, Case) else "padded" if value else "whole"


@pytest.mark.parametrize(("case", "padded"), comparisons(), ids=_label)
def test_logits_loss_and_gradients_are_the_authors(case, padded):
    differences = Comparison(case, padded).differences()
    assert max(differences.values()) <= NEAR, differences


@pytest.mark.parametrize("case", [*PRESETS, *VARIANTS, *OTHER_SCALE], ids=_label)
def test_parameters_are_the_authors(case):
    expected = {name: start.shape for name, start in parameters(case.design).items()}
    count = sum(math.prod(shape) for shape in expected.values())
    with torch.device("meta"):
        ours = dict(build(preset(case)).named_parameters())
    theta, unread = translate(case.design, ours)
    assert {name: tuple(tensor.shape) for name, tensor in theta.items()} == expected
    # The ids of [SEP] and [MASK], which byte texts of the library's may have and the authors' have not.
    extra_ids = 2 if case.design.vocabulary == 257 else 0
    assert sum(tensor.numel() for tensor in ours.values()) == count + extra_ids * case.design.hidden
    assert len(unread) == extra_ids
    assert case.printed in (None, count)
