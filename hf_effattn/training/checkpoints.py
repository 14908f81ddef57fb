"""The output folder of a run: which checkpoint to resume from, and one run at a time."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainingArguments
from transformers.utils.logging import get_logger

from ..files import read_json, write_json
from .argument_effects import changes_result
from .checkpoint_files import CHECKSUMS, LAST_STEP, best_weights, damage, recorded
from .results import RESULTS, ResolvedSetup


logger = get_logger(__name__)

#: Lock file: only the run that holds it may write to the output folder.
LOCK = ".lock"

#: The file of an output folder that holds the arguments of its run, and the setup that they resolved to.
ARGUMENTS = "arguments.json"

#: Arguments of the scripts that do not change what a run computes; `argument_effects` knows the trainer's.
_INDIFFERENT = ("resume", "diagnose")

#: How the names of files and folders begin that a run writes before it moves them into place.
_DRAFTS = (".model-", f".{ARGUMENTS}-", f".{RESULTS}-")


def checkpoint_to_resume(run: Any, training: TrainingArguments) -> Path | None:
    """The checkpoint to go on from, or None for a run from the start.

    Args:
        run: the arguments of the script, a dataclass with the field ``resume``.
        training: those of the trainer.

    Raises:
        FileExistsError: the folder holds an earlier run and ``resume`` is off, or another run, or a finished one.
        ValueError: the best weights up to the checkpoint are missing or have changed.
    """
    folder = Path(str(training.output_dir))
    if not run.resume:
        if folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise FileExistsError(
                f"{folder} holds an earlier run: pass --resume true to continue it, where the script can, or another "
                "folder"
            )
        return None
    if is_finished(folder):
        raise FileExistsError(f"{folder} holds a run that is finished, see its {RESULTS}: give another folder")
    checkpoint = last_complete_checkpoint(folder)
    if (folder / ARGUMENTS).is_file():
        _check_equal(folder, "arguments", identifying_arguments(run, training))
    elif checkpoint is not None:
        raise FileExistsError(
            f"{folder} has checkpoints but no {ARGUMENTS}, so it is unknown which run made them: give another folder"
        )
    if checkpoint is None:
        logger.info("%s has no whole checkpoint: starting", folder)
        return None
    if training.load_best_model_at_end:
        best_weights(checkpoint)
    if recorded(checkpoint) is None:
        logger.warning_once(
            f"{checkpoint} has no {CHECKSUMS}: an earlier version wrote it, or its run was ended as it was written. "
            "Its files are whole, but whether they have changed cannot be checked for all of them"
        )
    logger.info("resuming from %s", checkpoint)
    return checkpoint


def is_finished(folder: Path) -> bool:
    """Whether a folder holds the results of a run. A damaged or empty file does not count, and is written anew."""
    path = folder / RESULTS
    if not path.is_file():
        return False
    try:
        found = read_json(path)
    except ValueError as error:
        logger.warning_once(f"{error}. The run counts as not finished")
        return False
    return isinstance(found, dict) and bool(found)


def _check_equal(folder: Path, part: str, now: dict[str, Any]) -> None:
    """Raise FileExistsError if this part of the folder's `ARGUMENTS` differs from `now`."""
    try:
        recorded_run = read_json(folder / ARGUMENTS)
    except ValueError:
        recorded_run = None
    if not isinstance(recorded_run, dict) or not isinstance(recorded_run.get(part, {}), dict):
        raise FileExistsError(
            f"{folder / ARGUMENTS} is damaged, so it is unknown which run made the checkpoints: put it back from a "
            "copy, or give another folder"
        )
    earlier, now = _flat(recorded_run.get(part, {})), _flat(now)
    changed = sorted(name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name))
    if changed:
        told = ", ".join(f"{name}={earlier.get(name)!r}, not {now.get(name)!r}" for name in changed)
        raise FileExistsError(f"{folder} holds another run, with {told}: restore that, or give another folder")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of nested mappings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def identifying_arguments(run: Any, training: TrainingArguments) -> dict[str, Any]:
    """The arguments that tell one run from another, as they come back from a file."""
    own = {name: value for name, value in dataclasses.asdict(run).items() if name not in _INDIFFERENT}
    trainers = {name: value for name, value in training.to_sanitized_dict().items() if changes_result(name)}
    return _as_read(own | trainers)


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


@contextmanager
def exclusive_output_dir(
    run: Any, training: TrainingArguments, setup: ResolvedSetup, checkpoint: Path | None = None
) -> Iterator[None]:
    """Keep the output folder to this run, and record there which run it is; the main process does it for all.

    Args:
        run: the arguments of the script, a dataclass with the field ``resume``.
        training: those of the trainer.
        setup: the model's config, the data and so on, which follow from files and launchers too.
        checkpoint: what `checkpoint_to_resume` gave.

    Raises:
        FileExistsError: another run writes there at this moment, or has since then; or the run to be resumed had
            another setup.
    """
    if training.process_index != 0:
        yield
        return
    folder = Path(str(training.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(f"another run writes to {folder}: wait for it, or give another folder") from error
    try:
        if checkpoint_to_resume(run, training) != checkpoint:
            raise FileExistsError(f"another run has written to {folder} since this one began: start it again")
        resolved = _as_read(dataclasses.asdict(setup))
        if (folder / ARGUMENTS).is_file():
            _check_equal(folder, "made", resolved)
        _clear_drafts(folder)
        write_json(folder / ARGUMENTS, {"arguments": identifying_arguments(run, training), "made": resolved})
        yield
    finally:
        lock.release()


def _clear_drafts(folder: Path) -> None:
    """Remove the drafts of killed processes. Only the holder of the folder's lock may call it."""
    for path in folder.iterdir():
        if path.name.startswith(_DRAFTS):
            logger.warning("removing %s, the draft of a run that was killed", path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest ``checkpoint-*`` folder of a `Trainer` run that it can go on from, or None.

    Folders with `damage`, as a killed process or a full or failing disk leaves them, are skipped with a warning. The
    checkpoint of the last step is skipped too: `Trainer` would make one more step.
    """
    folders = [
        path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()
    ]
    for folder in sorted(folders, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        reason = damage(folder)
        if reason is None:
            return folder
        if reason != LAST_STEP:
            logger.warning_once(f"{folder} is damaged and passed over: {reason}")
    return None
