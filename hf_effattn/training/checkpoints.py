"""Which of a run's checkpoints can be trusted, and whether to go on from one."""

import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments


logger = logging.getLogger(__name__)

#: Whose run holds this file in an output folder is the only one that writes there.
LOCK = ".lock"

#: Files that `Trainer` writes with `torch.save`, and without which a run cannot go on as it would have.
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
#: The same of a run in shards (FSDP) that stores whole tensors.
_FSDP_FILES = ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt")


def checkpoint_to_resume(output_dir: str | Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a run from the start.

    Raises:
        FileExistsError: the folder holds an earlier run that `resume` does not ask to continue.
    """
    output_dir = Path(output_dir)
    if resume:
        checkpoint = last_complete_checkpoint(output_dir)
        logger.info(
            "%s", f"resuming from {checkpoint}" if checkpoint else f"{output_dir} has no whole checkpoint: starting"
        )
        return checkpoint
    if output_dir.exists() and any(path.name != LOCK for path in output_dir.iterdir()):
        raise FileExistsError(
            f"{output_dir} holds an earlier run: pass --resume true to continue it, or another folder"
        )
    return None


@contextmanager
def sole_run(training: TrainingArguments) -> Iterator[None]:
    """Keep the output folder to this run; of several processes the main one does it for all.

    Raises:
        FileExistsError: another run writes there at this moment.
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
        yield
    finally:
        lock.release()


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest ``checkpoint-*`` folder of a `Trainer` run that is whole, or None.

    A kill or a full disk while saving leaves a folder with files missing or cut short; such a folder is passed
    over, and the run goes on from the one before it.
    """
    folders = [
        path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()
    ]
    folders.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
    return next((folder for folder in folders if damage(folder) is None), None)


def damage(folder: Path) -> str | None:
    """What is wrong with a `Trainer` checkpoint, or None if it can be resumed from."""
    try:
        json.loads((folder / "trainer_state.json").read_text())
        json.loads((folder / "config.json").read_text())
        # Opening compares the lengths in the header with the size of the file.
        with safe_open(folder / "model.safetensors", framework="pt"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    for name in _FSDP_FILES if (folder / _FSDP_FILES[0]).exists() else _TORCH_FILES:
        # The directory of a zip file stands at its end, so a file cut short is none.
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    if not any(folder.glob("rng_state*.pth")):
        return "the state of the random numbers is missing"
    return None
