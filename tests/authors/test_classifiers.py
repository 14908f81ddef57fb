"""The authors' presets compute what the authors' classifiers compute, and are made of the same parameters."""

import math

import pytest
import torch

from tests.authors.classifiers import parameters
from tests.authors.compare import CONFIGS, Comparison, build, comparisons, preset
from tests.authors.published import OTHER_SCALE, PRESETS, VARIANTS, Case
from tests.authors.translate import translate


NEAR = 1e-10


def _label(value) -> str:
    return value.name if isinstance(value, Case) else "padded" if value else "whole"


def test_every_preset_that_is_called_the_authors_is_compared():
    found = {path.stem for path in CONFIGS.glob("*-authors-*.json")}
    for model in ("simpletron-lra2022", "kernel_transformer-lra2022", "luna-lra2024", "convluna-lra2024"):
        found |= {path.stem for path in CONFIGS.glob(f"{model}-*.json")}
    compared = {case.preset for case in PRESETS if not case.preset.startswith("vanilla")}
    assert found == compared


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
