"""What padding and length do to the models of the arena: each is run on one text alone and with padding behind it.

    python -m training_scripts.arena.padding

Writes ``padding.json`` beside the results of the runs.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import hf_effattn  # noqa: F401, registers our models
from hf_effattn.tokenization import VOCAB_SIZE
from hf_effattn.training.matched_configs import Size, matched_config
from training_scripts.arena.plan import PLAN, Variant, read_plan
from training_scripts.arena.results import RESULTS, write_measurements


PADDING = RESULTS / "padding.json"

#: The longest input of the models, and a text that is no whole number of blocks, windows or segments of any.
SIZE = Size(length=128, vocabulary=VOCAB_SIZE, hidden=64, layers=2, heads=4, intermediate=128)
TEXT = 97


def check(variant: Variant, options: dict[str, Any]) -> dict[str, Any]:
    """How far logits move when padding is added, and when its content changes; or what the model raises."""
    torch.manual_seed(0)
    config = matched_config(variant.model_type, SIZE, num_labels=2, **options)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.randint(4, SIZE.vocabulary, (1, TEXT))
    return {
        "options": options,
        "added": attempt(lambda: distance(logits(model, ids), logits(model, padded(ids, 0)))),
        "content": attempt(lambda: distance(logits(model, padded(ids, 0)), logits(model, padded(ids, 7)))),
    }


def attempt(measure: Callable[[], float]) -> dict[str, Any]:
    """A difference, or the error in its place."""
    try:
        return {"difference": measure(), "error": None}
    except Exception as error:
        # What it raises is the finding.
        return {"difference": None, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def padded(ids: torch.Tensor, token: int) -> torch.Tensor:
    """`ids` with tokens behind them, up to the longest input."""
    return torch.nn.functional.pad(ids, (0, SIZE.length - ids.shape[1]), value=token)


@torch.no_grad()
def logits(model: transformers.PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Of the text at the front of `ids`; all else is masked, for models that take a mask."""
    # Reformer's hashes and Performer's features are drawn at random.
    torch.manual_seed(0)
    mask = (torch.arange(ids.shape[1]) < TEXT).long()[None]
    # FNet has no mask to take.
    masked = {} if model.config.model_type == "fnet" else {"attention_mask": mask}
    return model(input_ids=ids, **masked).logits


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Largest difference, relative to the largest logit."""
    return float((one - two).abs().max() / one.abs().max())


def main(arguments: list[str]) -> None:
    """Check every variant of the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--output", type=Path, default=PADDING, help="file of the findings")
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    write_measurements(
        options.output, {variant.name: check(variant, plan.options_of(variant)) for variant in plan.variants.values()}
    )


if __name__ == "__main__":
    # Models of transformers warn about themselves, on every call.
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    main(sys.argv[1:])
