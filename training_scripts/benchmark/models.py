"""The group "models": training step and forward pass of whole classifiers, side by side."""

import gc
from functools import partial
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_effattn.tokenization import VOCAB_SIZE
from hf_effattn.training.matched_configs import Size

from ..measuring.timing import Runner, interleave, timed
from .candidate import OURS
from .machine import package_version
from .model_entries import ENTRIES, ModelEntry
from .problem import FORWARD
from .settings import Settings
from .shares import step_shares


TRAINING_STEP = "training step"

#: Differences of logits that are rounding in float32.
PADDING_TOLERANCE = 1e-5


def run_models(settings: Settings, chosen: tuple[ModelEntry, ...] = ENTRIES) -> dict[str, Any]:
    """Check every model, then time all of them."""
    size = Size(settings.model_length, VOCAB_SIZE, *settings.model_size)
    entries: dict[str, dict[str, Any]] = {}
    models: dict[str, PreTrainedModel] = {}
    for model_entry in tqdm(chosen, desc="checking models", leave=False):
        entry = entries[model_entry.name] = describe(model_entry)
        try:
            model = _checked_model(model_entry, size, entry)
        except Exception as error:
            # Another library may raise anything; its error is its result.
            entry["error"] = model_error_text(error)
            continue
        if model is not None:
            models[model_entry.name] = model
    ids = token_ids(size.length)
    for label, runners in (
        (FORWARD, [_forward_runner(name, model, ids) for name, model in models.items()]),
        (TRAINING_STEP, [_training_runner(name, model, ids) for name, model in models.items()]),
    ):
        timings = interleave(runners, settings, settings.model_seconds, 0, label)
        for name, seconds in timings.seconds.items():
            entries[name]["seconds"][label] = seconds
        for name, raised in timings.errors.items():
            entries[name]["error"] = f"{label}: {model_error_text(raised)}"
        gc.collect()
    for runner in runners:
        if runner.name not in timings.errors:
            entries[runner.name]["shares"] = step_shares(partial(timed, runner))
    return {"size": size.fields(), "batch": 1, "entries": list(entries.values())}


def describe(model_entry: ModelEntry) -> dict[str, Any]:
    """What the result file says of a model before anything has run."""
    package = "hf_effattn" if model_entry.origin == OURS else "transformers"
    return {
        "name": model_entry.name,
        "attention": model_entry.attention,
        "origin": model_entry.origin,
        "package": package,
        "version": package_version(package),
        "parameters": None,
        "check": None,
        "seconds": {},
        "shares": None,
        "error": None,
    }


def model_error_text(error: BaseException) -> str:
    """How tables show that a model failed."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def token_ids(length: int) -> torch.Tensor:
    """One row of ordinary tokens."""
    return torch.randint(4, VOCAB_SIZE, (1, length), generator=torch.Generator().manual_seed(0))


def _checked_model(model_entry: ModelEntry, size: Size, entry: dict[str, Any]) -> PreTrainedModel | None:
    """The model if its loss is finite; `entry` says what was found."""
    torch.manual_seed(0)
    model = model_entry.build(size)
    entry["parameters"] = model.num_parameters()
    ids = token_ids(size.length)
    loss = float(model.train()(input_ids=ids, labels=torch.ones(1, dtype=torch.long)).loss.detach())
    finite = bool(torch.isfinite(torch.tensor(loss)))
    entry["check"] = {"loss": loss, "passed": finite, "padding": padding_difference(model, ids)}
    if not finite:
        entry["check"]["loss"] = str(loss)
        entry["error"] = f"refused: the loss is {loss}"
        return None
    return model


def padding_difference(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, Any]:
    """By how much padding changes the logits of a row, or why it cannot be told.

    The row is three quarters of `ids`; the padded one has the full length again.
    """
    real = ids.shape[1] * 3 // 4
    padded = ids.clone()
    padded[:, real:] = 0
    mask = torch.zeros_like(ids)
    mask[:, :real] = 1
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=ids[:, :real]).logits
            together = model(input_ids=padded, attention_mask=mask).logits
    except Exception as error:
        return {"exact": False, "difference": None, "error": model_error_text(error)}
    difference = float((alone - together).abs().max())
    return {"exact": difference <= PADDING_TOLERANCE, "difference": difference, "error": None}


def _forward_runner(name: str, model: PreTrainedModel, ids: torch.Tensor) -> Runner:
    def call() -> Any:
        with torch.no_grad():
            return model(input_ids=ids).logits

    return Runner(name, call, lambda: _set_training(model, False))


def _training_runner(name: str, model: PreTrainedModel, ids: torch.Tensor) -> Runner:
    labels = torch.ones(1, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def call() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()

    return Runner(name, call, lambda: _set_training(model, True))


def _set_training(model: PreTrainedModel, training: bool) -> None:
    if model.training != training:
        model.train(training)
