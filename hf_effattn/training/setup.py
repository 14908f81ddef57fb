"""How every training script begins: its arguments, their checks, the checkpoint to resume, and the seed."""

import logging
from collections.abc import Callable
from typing import TypeVar

from transformers import HfArgumentParser, TrainingArguments, set_seed

from .arguments import RunArguments
from .checkpoints import checkpoint_to_resume
from .checks import Scores, check_arguments, check_weights_are_kept, choose_weights_by
from .recipes import parse_recipe


Arguments = TypeVar("Arguments", bound=RunArguments)


def parse_and_seed(
    kind: type[Arguments],
    command_line: list[str],
    description: str | None,
    scores: Scores,
    check: Callable[[Arguments, TrainingArguments], None] | None = None,
) -> tuple[Arguments, TrainingArguments]:
    """The arguments of a script and those of the trainer, checked, with logs on and the seed set.

    ``resume_from_checkpoint`` of the trainer's arguments is the checkpoint to go on from, if the run is resumed.

    Args:
        kind: the class of the script's own arguments.
        command_line: without the program's name.
        description: what ``--help`` says.
        scores: what the script measures, one of which may choose the best weights.
        check: raises ValueError for arguments that this script cannot follow; if None, `check_weights_are_kept` does.

    Raises:
        ValueError: arguments that do not go together.
        FileExistsError: the output folder holds an earlier run that is not to be resumed.
    """
    run: Arguments
    training: TrainingArguments
    parser = HfArgumentParser((kind, TrainingArguments), description=description)  # type: ignore[arg-type]
    run, training = parse_recipe(parser, command_line)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    if training.resume_from_checkpoint is not None:
        raise ValueError("this script finds the checkpoint itself: pass --resume true, not --resume_from_checkpoint")
    check_arguments(training)
    choose_weights_by(training, scores.higher, scores.lower)
    if check is None:
        check_weights_are_kept(training)
    else:
        check(run, training)
    if (checkpoint := checkpoint_to_resume(run, training)) is not None:
        training.resume_from_checkpoint = str(checkpoint)
    training.include_num_input_tokens_seen = "non_padding"
    set_seed(training.seed)
    return run, training
