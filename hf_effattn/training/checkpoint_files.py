"""The files of a `Trainer` checkpoint: their checksums, which are written at last, and what is wrong with them."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import read_json, sha256, write_json


#: The file of a checkpoint that holds the checksums of the others, and of the best weights until then.
CHECKSUMS = "checksums.json"

#: What `damage` says of a checkpoint that nothing is wrong with, but that a run has nothing to do after.
LAST_STEP = "it is that of the last step"

STATE = "trainer_state.json"
WEIGHTS = "model.safetensors"

#: Files that `Trainer` writes with `torch.save`, and without which a run cannot go on as it would have.
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
#: The same of a run in shards (FSDP) that stores whole tensors.
_FSDP_FILES = ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt")
#: How the names of all files end that `torch.save` writes: archives, in which every part has a checksum.
_ARCHIVES = (".pt", ".pth", ".bin")

#: How the names of files of weights end, and how those of weights in shards begin.
_OF_WEIGHTS, _OF_SHARDS = ".safetensors", "pytorch_model"


def checkpoint_of(output_dir: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return Path(output_dir) / f"checkpoint-{step}"


def seal(folder: Path, best: dict[str, str] | None = None) -> dict[str, str]:
    """Write the checksums of all files of a checkpoint into it, and give those of its weights.

    Args:
        folder: a checkpoint that is complete.
        best: the checksums of the best weights until then; if None, they are its own.

    Raises:
        OSError: they cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and CHECKSUMS not in path.name)
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    own = _of_weights(files)
    write_json(folder / CHECKSUMS, {"files": files, "best_weights": own if best is None else best})
    return own


def recorded(folder: Path) -> dict[str, Any] | None:
    """What `seal` wrote, or None for a checkpoint without checksums.

    Raises:
        ValueError: that is damaged.
    """
    if not (folder / CHECKSUMS).exists():
        return None
    content: Any = read_json(folder / CHECKSUMS)
    parts = [content.get(name) if isinstance(content, dict) else None for name in ("files", "best_weights")]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{folder / CHECKSUMS} holds no checksums")
    found: dict[str, Any] = content
    return found


def damage(folder: Path) -> str | None:
    """What is wrong with a `Trainer` checkpoint, or None if it can be resumed from.

    With checksums, every file is compared with its own. Without them, which earlier versions did not write, those of
    the archives that `torch.save` writes are; of the weights and the texts only the form is looked at.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        last_step = state["global_step"] >= state["max_steps"]
        json.loads((folder / "config.json").read_text())
        # Opening compares the lengths in the header with the size of the file.
        with safe_open(folder / WEIGHTS, framework="pt"):
            pass
        sealed = recorded(folder)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    for name in _FSDP_FILES if (folder / _FSDP_FILES[0]).exists() else _TORCH_FILES:
        # The directory of a zip file stands at its end, so a file cut short is none.
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    if not any(folder.glob("rng_state*.pth")):
        return "the state of the random numbers is missing"
    if last_step:
        return LAST_STEP
    return _damaged_archive(folder) if sealed is None else changed_file(folder, sealed["files"])


def changed_file(folder: Path, checksums: dict[str, str]) -> str | None:
    """Which of the files in `folder` is missing or not the one that the checksums are of, or None."""
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            found = sha256(path)
        except OSError as error:
            return f"{name} cannot be read: {error}"
        if found != expected:
            return f"{name} has changed since it was written: its SHA-256 is {found}, not {expected}"
    return None


def _damaged_archive(folder: Path) -> str | None:
    for path in sorted(path for path in folder.iterdir() if path.suffix in _ARCHIVES):
        try:
            with zipfile.ZipFile(path) as archive:
                part = archive.testzip()
        except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            return f"{path.name} is damaged: {error}"
        if part is not None:
            return f"{path.name} is damaged, in its part {part}"
    return None


def weight_files(folder: Path) -> dict[str, str]:
    """The checksums of the weights in a checkpoint: those that were written with it, or of what is there now.

    Raises:
        ValueError: its checksums are damaged.
    """
    sealed = recorded(folder)
    if sealed is not None:
        return _of_weights(sealed["files"])
    return {
        name: sha256(folder / name) for name in _of_weights({path.name: "" for path in sorted(folder.glob("*.*"))})
    }


def _of_weights(files: dict[str, str]) -> dict[str, str]:
    return {
        name: checksum for name, checksum in files.items() if name.endswith(_OF_WEIGHTS) or name.startswith(_OF_SHARDS)
    }


def best_weights(checkpoint: Path) -> dict[str, str] | None:
    """The checksums of the best weights of a run until `checkpoint`, or None if it has chosen none yet.

    The checkpoint that holds them is the one beside that has the number of the best step, wherever the run lay before.

    Raises:
        ValueError: they are missing or have changed.
    """
    step = read_json(checkpoint / STATE).get("best_global_step")
    if not step:
        return None
    best, sealed = checkpoint_of(checkpoint.parent, step), recorded(checkpoint)
    try:
        expected = (sealed and sealed["best_weights"]) or weight_files(best)
        if not expected:
            reason: str | None = f"{WEIGHTS} is missing"
        elif (reason := changed_file(best, expected)) is None and WEIGHTS in expected:
            with safe_open(best / WEIGHTS, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error)
    if reason is not None:
        raise ValueError(
            f"{checkpoint} counts on the weights of {best.name}, the best until then, but of these {reason}. Put "
            f"{best} back from a copy; or remove it and the checkpoints after it, so that the run goes on from the "
            "one before and makes them anew"
        )
    return expected
