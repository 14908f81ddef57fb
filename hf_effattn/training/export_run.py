"""What a run leaves in its output folder: ``model/``, and then ``results.json``."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..hub.export import export_checkpoint, weight_checksums
from .results import RunResults


logger = logging.getLogger(__name__)


def export_run(
    model: PreTrainedModel,
    processor: Any,
    output_dir: Path,
    results: RunResults,
    best: dict[str, str] | None = None,
) -> RunResults:
    """Write ``model/`` to the output folder of a run, and then ``results.json`` with the checksums of its weights.

    The tokenizer of a decoder pads on the left there, since `generate` writes behind the end of every row.

    Args:
        model: with the weights that are left.
        processor: its tokenizer or image processor, if any.
        output_dir: the folder of the run.
        results: of the run.
        best: the checksums of the best weights, if the model has to have these.

    Returns:
        The results, with the checksums of the weights.

    Raises:
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones.
    """
    if processor is not None and model.can_generate():
        processor.padding_side = "left"
    folder = export_checkpoint(model, processor, output_dir / "model")
    weights = weight_checksums(folder)
    if best is not None and weights != best:
        raise RuntimeError(f"the weights in {folder} are {weights}, and the best ones were {best}")
    results = dataclasses.replace(results, weights=weights)
    results.save(output_dir)
    return results


def export_trained(trainer: Any, model_class: type[PreTrainedModel], results: RunResults) -> RunResults:
    """`export_run` of what a trainer has trained, a model of `model_class`; every process has to call it.

    Raises:
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones, which were to be loaded.
    """
    model = whole_model(trainer, model_class)
    if not trainer.is_world_process_zero():
        return results
    # Weights in shards are put together, in another file than they were saved in.
    best = None if trainer.is_fsdp_enabled else _chosen_weights(trainer)
    return export_run(model, trainer.processing_class, Path(str(trainer.args.output_dir)), results, best)


def _chosen_weights(trainer: Any) -> dict[str, str] | None:
    """The checksums of the best weights, if the trainer was to load them and there are such."""
    if not trainer.args.load_best_model_at_end:
        return None
    if trainer.best_weights is None:
        logger.warning("no evaluation gave a score to choose weights by: those that are left are the last ones")
    best: dict[str, str] | None = trainer.best_weights
    return best


def whole_model(trainer: Any, model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """The model of the trainer, of `model_class`, put together in the main process if its weights are in shards.

    Every process has to call it.
    """
    if not trainer.is_fsdp_enabled:
        unwrapped: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
        return unwrapped
    state = trainer.accelerator.get_state_dict(trainer.model)
    model = model_class(trainer.model.config)
    if trainer.is_world_process_zero():
        model.load_state_dict(state)
    return model
