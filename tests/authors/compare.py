"""A preset beside the authors' classifier of the same weights: ``python -m tests.authors.compare`` prints how far
they are apart, in float64, in logits, loss and gradients.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

import hf_effattn  # noqa: F401  (registers the families)
from tests.authors.classifiers import Classifier, Design, parameters
from tests.authors.equations import Drop, Theta
from tests.authors.published import PRESETS, VARIANTS, Case
from tests.authors.translate import token_ids, translate


CONFIGS = Path(__file__).parents[2] / "modeling_configs"
#: Lengths that a test can afford; every other size is that of the preset.
IMAGE = (3, 4)
LENGTH = 11
VOCABULARY = 19
#: How far weights are moved from their first values, where ones and zeros would hide what they do.
SHAKEN = 0.05


def preset(case: Case) -> dict[str, Any]:
    """The fields of the config of a case."""
    return json.loads((CONFIGS / f"{case.preset}.json").read_text()) | case.options


def build(fields: dict[str, Any]) -> torch.nn.Module:
    """The library's classifier of a config."""
    config = AutoConfig.for_model(**fields)
    auto = AutoModelForSequenceClassification if config.num_channels is None else AutoModelForImageClassification
    return auto.from_config(config)


def shortened(case: Case) -> tuple[Design, dict[str, Any]]:
    """Design and config of a case for short inputs of few different tokens."""
    fields, design = preset(case), case.design
    if design.vocabulary is None:
        length = IMAGE[0] * IMAGE[1]
        return replace(design, length=length), fields | {"max_position_embeddings": length + 1}
    # What the library has beyond their vocabulary, it keeps.
    extra = AutoConfig.for_model(**fields).vocab_size - design.vocabulary
    design = replace(design, length=LENGTH, vocabulary=VOCABULARY)
    return design, fields | {"max_position_embeddings": LENGTH + 1, "vocab_size": VOCABULARY + extra}


def shake(model: torch.nn.Module) -> None:
    """Move every weight off its first value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += SHAKEN * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def draw_batch(design: Design, padded: bool) -> tuple[list, list | None]:
    """Two inputs as the authors' classifiers read them, and their masks if `padded`.

    Each ends in padding, of a pair the first sequence in one and the second in the other. Without masks it is attended
    to, as in all their runs.
    """
    generator = torch.Generator().manual_seed(1)
    if design.vocabulary is None:
        return list(torch.randn(2, *IMAGE, generator=generator, dtype=torch.float64)), None
    sequences = torch.randint(1, design.vocabulary, (4, design.length), generator=generator)
    sequences[0, -3:] = 0
    sequences[3, -5:] = 0
    if not design.pair:
        sequences = sequences[[0, 3]]
    batch = [tuple(pair) for pair in sequences.unflatten(0, (2, 2))] if design.pair else list(sequences)
    if not padded:
        return batch, None
    seen = (sequences > 0).double()
    return batch, [tuple(pair) for pair in seen.unflatten(0, (2, 2))] if design.pair else list(seen)


def library_inputs(design: Design, batch: list, padded: bool, table_size: int) -> dict[str, torch.Tensor]:
    """The same batch as the library's forward takes it."""
    if design.vocabulary is None:
        return {"pixel_values": torch.stack(batch)[:, None]}

    def arguments(prefix: str, sequences: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = torch.stack([token_ids(design, sequence, table_size) for sequence in sequences])
        return {f"{prefix}input_ids": ids, **({f"{prefix}attention_mask": (ids > 0).long()} if padded else {})}

    if not design.pair:
        return arguments("", batch)
    first, second = zip(*batch, strict=True)
    return arguments("", first) | arguments("pair_", second)


class Comparison:
    """A preset and the authors' classifier with its weights, at short lengths and in float64."""

    def __init__(self, case: Case, padded: bool = False, **options: Any):
        torch.manual_seed(0)
        self.design, fields = shortened(case)
        self.model = build(fields | options).double().eval()
        self.padded = padded
        shake(self.model)
        self.ours: Theta = dict(self.model.named_parameters())
        theta, self.unread = translate(self.design, self.ours)
        shapes = {name: start.shape for name, start in parameters(self.design).items()}
        found = {name: tuple(tensor.shape) for name, tensor in theta.items()}
        assert found == shapes, set(found.items()) ^ set(shapes.items())
        self.theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in theta.items()}
        self.labels = torch.tensor([1, 0])

    def authors(self, drop: Drop = lambda place, x: x) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and loss of the authors' classifier."""
        classifier = Classifier(self.design, self.theta, drop)
        logits = classifier.logits(*draw_batch(self.design, self.padded))
        return logits, classifier.loss(logits, self.labels)

    def library(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and loss of the preset."""
        batch, _ = draw_batch(self.design, self.padded)
        table_size = self.model.config.vocab_size
        outputs = self.model(**library_inputs(self.design, batch, self.padded, table_size), labels=self.labels)
        return outputs.logits, outputs.loss

    def differences(self, drop: Drop = lambda place, x: x) -> dict[str, float]:
        """The largest difference of logits, loss and gradients, and the largest gradient of what should have none."""
        logits, loss = self.authors(drop)
        expected = dict(zip(self.theta, torch.autograd.grad(loss, list(self.theta.values())), strict=True))
        our_logits, our_loss = self.library()
        gradients = torch.autograd.grad(our_loss, list(self.ours.values()), materialize_grads=True)
        found, unread = translate(self.design, dict(zip(self.ours, gradients, strict=True)))
        return {
            "logits": float((our_logits - logits).detach().abs().max()),
            "loss": float((our_loss - loss).detach().abs()),
            "gradients": max(float((found[name] - expected[name]).abs().max()) for name in expected),
            "unread": float(unread.abs().sum()),
        }


def masks_matter(case: Case) -> bool:
    """Whether the authors' code has a mask for the case: with a memory, for tokens, and with a window per token.

    Their classifier of single sequences leaves it out where it has a filter.
    """
    design = case.design
    return design.memory and design.vocabulary is not None and (design.mixer == "luna" or design.pair)


def comparisons() -> list[tuple[Case, bool]]:
    """Every case, and those that can be padded a second time with masks."""
    cases = [*PRESETS, *VARIANTS]
    return [(case, False) for case in cases] + [(case, True) for case in cases if masks_matter(case)]


def main() -> None:
    """Print the table."""
    print(f"{'':<75}{'logits':>10}{'loss':>10}{'gradients':>11}")
    for case, padded in comparisons():
        found = Comparison(case, padded).differences()
        name = case.name + (" padded" if padded else "")
        print(f"{name:<75}{found['logits']:>10.1e}{found['loss']:>10.1e}{found['gradients']:>11.1e}")


if __name__ == "__main__":
    main()
