"""Which of a run's checkpoints can be trusted, and whether to go on from one."""

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
from .checkpoint_files import CHECKSUMS, LAST_STEP, best_weights, damage, recorded


logger = get_logger(__name__)

#: Whose run holds this file in an output folder is the only one that writes there.
LOCK = ".lock"

#: What the run in an output folder was asked for, and what was made of that.
ASKED = "arguments.json"

#: What a run leaves at last.
RESULTS = "results.json"

#: Beginnings of the names of arguments that do not change what a run comes to.
INDIFFERENT = (
    *("output_dir", "resume", "restore_callback_states", "remove_unused_columns", "include_num_input_tokens"),
    *("disable_tqdm", "log", "report_to", "run_name", "project", "trackio", "hub_", "push_to_hub", "save_total_limit"),
    *("dataloader_num_workers", "dataloader_pin", "dataloader_prefetch", "dataloader_persistent", "use_cpu", "local_"),
    *("ddp_", "deepspeed", "fsdp", "skip_memory_metrics", "diagnose"),
)

#: How names of files and folders begin that a run makes before it moves them into place.
_DRAFTS = (".model-", f".{ASKED}-", f".{RESULTS}-")


def checkpoint_to_resume(arguments: Any, training: TrainingArguments) -> Path | None:
    """The checkpoint to go on from, or None for a run from the start.

    Args:
        arguments: those of the script, a dataclass with the field ``resume``.
        training: those of the trainer.

    Raises:
        FileExistsError: the folder holds an earlier run that `arguments` do not ask to continue, or another one, or a
            finished one.
        ValueError: the best weights until the checkpoint are missing or have changed.
    """
    folder = Path(str(training.output_dir))
    if not arguments.resume:
        if folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise FileExistsError(
                f"{folder} holds an earlier run: pass --resume true to continue it, where the script can, or another "
                "folder"
            )
        return None
    if is_finished(folder):
        raise FileExistsError(f"{folder} holds a run that is finished, see its {RESULTS}: give another folder")
    checkpoint = last_complete_checkpoint(folder)
    if (folder / ASKED).is_file():
        _check_equal(folder, "arguments", asked_for(arguments, training))
    elif checkpoint is not None:
        raise FileExistsError(f"{folder} has checkpoints but no {ASKED}, so of what run? Give another folder")
    if checkpoint is None:
        logger.info("%s has no whole checkpoint: starting", folder)
        return None
    if training.load_best_model_at_end:
        best_weights(checkpoint)
    if recorded(checkpoint) is None:
        logger.warning_once(
            f"{checkpoint} has no {CHECKSUMS}: an earlier version wrote it, or its run was ended as it was written. "
            "That its files are whole can be seen, but not of all that nothing in them has changed"
        )
    logger.info("resuming from %s", checkpoint)
    return checkpoint


def is_finished(folder: Path) -> bool:
    """Whether a run has left its results; those that are cut or empty are none, and will be written anew."""
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
    """Raise FileExistsError if the run in the folder has something else in this part of its `ASKED`."""
    try:
        asked = read_json(folder / ASKED)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get(part, {}), dict):
        raise FileExistsError(
            f"{folder / ASKED} is damaged, so of what run are the checkpoints? Put it back from a copy, or give "
            "another folder"
        )
    earlier, now = _flat(asked.get(part, {})), _flat(now)
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


def asked_for(arguments: Any, training: TrainingArguments) -> dict[str, Any]:
    """The arguments that tell one run from another, as they come back from a file."""
    both = dataclasses.asdict(arguments) | training.to_sanitized_dict()
    return _as_read({name: both[name] for name in both if not name.startswith(INDIFFERENT)})


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content))


@contextmanager
def sole_run(
    arguments: Any, training: TrainingArguments, made: dict[str, Any], checkpoint: Path | None = None
) -> Iterator[None]:
    """Keep the output folder to this run, and write down there what it is; of several processes the main one does it.

    Args:
        arguments: those of the script, a dataclass with the field ``resume``.
        training: those of the trainer.
        made: what the arguments came to, where files and launchers have a say: the model's config, the data and so on.
        checkpoint: what `checkpoint_to_resume` gave.

    Raises:
        FileExistsError: another run writes there at this moment, or has since then; or the run to be resumed had
            something else made of its arguments.
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
        if checkpoint_to_resume(arguments, training) != checkpoint:
            raise FileExistsError(f"another run has written to {folder} since this one began: start it again")
        made = _as_read(made)
        if (folder / ASKED).is_file():
            _check_equal(folder, "made", made)
        _clear_drafts(folder)
        write_json(folder / ASKED, {"arguments": asked_for(arguments, training), "made": made})
        yield
    finally:
        lock.release()


def _clear_drafts(folder: Path) -> None:
    """Remove what killed processes have left of exports and files; whoever holds the lock of the folder is alone."""
    for path in folder.iterdir():
        if path.name.startswith(_DRAFTS):
            logger.warning("removing %s, which a run left that was killed", path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest ``checkpoint-*`` folder of a `Trainer` run that it can go on from, or None.

    A kill or a full disk while saving leaves a folder with files missing or cut short, and a failing disk one with
    others (`damage`); a warning names such a folder, and the run goes on from the one before it. That of the last step
    is passed over too: `Trainer` would make one more.
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
