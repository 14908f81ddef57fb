"""Which of a run's checkpoints can be trusted, and whether to go on from one."""

import dataclasses
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

from ..files import read_json, write_json


logger = logging.getLogger(__name__)

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

#: Files that `Trainer` writes with `torch.save`, and without which a run cannot go on as it would have.
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
#: The same of a run in shards (FSDP) that stores whole tensors.
_FSDP_FILES = ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt")


def checkpoint_to_resume(arguments: Any, training: TrainingArguments) -> Path | None:
    """The checkpoint to go on from, or None for a run from the start.

    Args:
        arguments: those of the script, a dataclass with the field ``resume``.
        training: those of the trainer.

    Raises:
        FileExistsError: the folder holds an earlier run that `arguments` do not ask to continue, or another one, or a
            finished one.
    """
    folder = Path(str(training.output_dir))
    if not arguments.resume:
        if folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise FileExistsError(
                f"{folder} holds an earlier run: pass --resume true to continue it, or another folder"
            )
        return None
    if (folder / RESULTS).is_file():
        raise FileExistsError(f"{folder} holds a run that is finished, see its {RESULTS}: give another folder")
    checkpoint = last_complete_checkpoint(folder)
    if (folder / ASKED).is_file():
        _check_equal(folder, "arguments", asked_for(arguments, training))
    elif checkpoint is not None:
        raise FileExistsError(f"{folder} has checkpoints but no {ASKED}, so of what run? Give another folder")
    if checkpoint is None:
        logger.info("%s has no whole checkpoint: starting", folder)
    else:
        logger.info("resuming from %s", checkpoint)
    return checkpoint


def _check_equal(folder: Path, part: str, now: dict[str, Any]) -> None:
    """Raise FileExistsError if the run in the folder has something else in this part of its `ASKED`."""
    earlier, now = _flat(read_json(folder / ASKED).get(part, {})), _flat(now)
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
        write_json(folder / ASKED, {"arguments": asked_for(arguments, training), "made": made})
        yield
    finally:
        lock.release()


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest ``checkpoint-*`` folder of a `Trainer` run that it can go on from, or None.

    A kill or a full disk while saving leaves a folder with files missing or cut short; such a folder is passed
    over, and the run goes on from the one before it. So is that of the last step: `Trainer` would make one more.
    """
    folders = [
        path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()
    ]
    folders.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
    return next((folder for folder in folders if damage(folder) is None), None)


def damage(folder: Path) -> str | None:
    """What is wrong with a `Trainer` checkpoint, or None if it can be resumed from."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text())
        last_step = state["global_step"] >= state["max_steps"]
        json.loads((folder / "config.json").read_text())
        # Opening compares the lengths in the header with the size of the file.
        with safe_open(folder / "model.safetensors", framework="pt"):
            pass
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        return str(error)
    for name in _FSDP_FILES if (folder / _FSDP_FILES[0]).exists() else _TORCH_FILES:
        # The directory of a zip file stands at its end, so a file cut short is none.
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    if not any(folder.glob("rng_state*.pth")):
        return "the state of the random numbers is missing"
    return "it is that of the last step" if last_step else None
