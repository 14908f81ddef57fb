"""Measure what padding does to the models of the arena: each reads one text without and with padding behind it.

    python -m training_scripts.arena.padding

The script writes ``padding.json`` beside the results of the runs.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers

import hf_effattn  # noqa: F401, registers our models
from hf_effattn.tokenization import VOCAB_SIZE
from hf_effattn.training.matched_configs import Size, matched_config
from training_scripts.arena.command_line import measuring_parser, silence_warnings
from training_scripts.arena.plan import Variant, read_plan
from training_scripts.arena.results import RESULTS, write_measurements


PADDING = RESULTS / "padding.json"

#: The size of the models, and the length of a text that no model divides into whole blocks, windows or segments.
SIZE = Size(length=128, vocabulary=VOCAB_SIZE, hidden=64, layers=2, heads=4, intermediate=128)
TEXT = 97


def check(variant: Variant, options: dict[str, Any]) -> dict[str, Any]:
    """The change of the logits when padding is added, and when its content changes; or the error of the model."""
    torch.manual_seed(0)
    config = matched_config(variant.model_type, SIZE, num_labels=2, **options)
    auto_class: Any = transformers.AutoModelForSequenceClassification
    model = auto_class.from_config(config).eval()
    ids = torch.randint(4, SIZE.vocabulary, (1, TEXT))
    return {
        "options": options,
        "added": attempt(lambda: distance(logits(model, ids), logits(model, padded(ids, 0)))),
        "content": attempt(lambda: distance(logits(model, padded(ids, 0)), logits(model, padded(ids, 7)))),
    }


def attempt(measure: Callable[[], float]) -> dict[str, Any]:
    """The difference that `measure` returns, or the error that it raises."""
    try:
        return {"difference": measure(), "error": None}
    except Exception as error:
        # The error is the result of this measurement.
        return {"difference": None, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def padded(ids: torch.Tensor, token: int) -> torch.Tensor:
    """`ids`, followed by copies of `token` up to the longest input."""
    return torch.nn.functional.pad(ids, (0, SIZE.length - ids.shape[1]), value=token)


@torch.no_grad()
def logits(model: transformers.PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the text at the front of `ids`; the rest is masked, for models that take a mask."""
    # Some models draw hashes or features at random.
    torch.manual_seed(0)
    mask = (torch.arange(ids.shape[1]) < TEXT).long()[None]
    # FNet takes no mask.
    masked = {} if model.config.model_type == "fnet" else {"attention_mask": mask}
    found: torch.Tensor = model(input_ids=ids, **masked).logits
    return found


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Largest difference of two sets of logits, relative to the largest logit."""
    return float((one - two).abs().max() / one.abs().max())


def main(arguments: list[str]) -> None:
    """Measure every variant of the plan."""
    options = measuring_parser(__doc__, PADDING).parse_args(arguments)
    plan = read_plan(options.plan)
    write_measurements(
        options.output, {variant.name: check(variant, plan.options_of(variant)) for variant in plan.variants.values()}
    )


if __name__ == "__main__":
    silence_warnings()
    main(sys.argv[1:])
