"""The files of a `Trainer` checkpoint: their checksums, which are written last, and how damage is found."""

import json
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import read_json, sha256, write_json


#: The file with the checksums of a checkpoint's other files, and of the best weights at its step.
CHECKSUMS = "checksums.json"

#: What `damage` says of the checkpoint of the last step: it is whole, but no training is left after it.
LAST_STEP = "it is that of the last step"

STATE = "trainer_state.json"
WEIGHTS = "model.safetensors"

#: Files that `Trainer` writes with `torch.save`; a run cannot be resumed exactly without them.
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
#: The same for a sharded run (FSDP) that stores whole tensors.
_FSDP_FILES = ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt")
#: Suffixes of files that `torch.save` writes: archives, in which every part has a checksum.
_ARCHIVES = (".pt", ".pth", ".bin")

#: The suffix of files of weights, and the prefix of files of sharded weights.
_WEIGHTS_SUFFIX, _SHARDS_PREFIX = ".safetensors", "pytorch_model"


def checkpoint_of(output_dir: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return Path(output_dir) / f"checkpoint-{step}"


def seal(folder: Path, best: dict[str, str] | None = None) -> dict[str, str]:
    """Write the checksums of all files of a checkpoint into it; returns those of its weights.

    Args:
        folder: a checkpoint that is complete.
        best: the checksums of the best weights so far; None if they are those of this checkpoint.

    Raises:
        OSError: they cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and CHECKSUMS not in path.name)
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    own = _only_weights(files)
    write_json(folder / CHECKSUMS, {"files": files, "best_weights": own if best is None else best})
    return own


@dataclass(frozen=True)
class Checksums:
    """What `seal` writes into a checkpoint: the checksums of its files, and of the best weights so far, by name."""

    files: dict[str, str]
    best_weights: dict[str, str]


_PARTS = tuple(field.name for field in fields(Checksums))


def recorded(folder: Path) -> Checksums | None:
    """The checksums that `seal` wrote, or None for a checkpoint without them.

    Raises:
        ValueError: the file of checksums is damaged.
    """
    if not (folder / CHECKSUMS).exists():
        return None
    content = read_json(folder / CHECKSUMS)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in _PARTS):
        raise ValueError(f"{folder / CHECKSUMS} holds no checksums")
    return Checksums(**{name: content[name] for name in _PARTS})


def damage(folder: Path) -> str | None:
    """What is wrong with a `Trainer` checkpoint, or None if it can be resumed from.

    Every file is compared with its checksum. Checkpoints of early versions have none: then the checksums inside the
    archives of `torch.save` are compared, and weights and JSON files only have to be readable.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        last_step = state["global_step"] >= state["max_steps"]
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
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
    return _damaged_archive(folder) if sealed is None else changed_file(folder, sealed.files)


def changed_file(folder: Path, checksums: dict[str, str]) -> str | None:
    """Which file in `folder` is missing or differs from its checksum, and how; None if all are as they were."""
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
    """The checksums of the weights in a checkpoint: the recorded ones, or without a record those of its files now.

    Raises:
        ValueError: its checksums are damaged.
    """
    sealed = recorded(folder)
    if sealed is not None:
        return _only_weights(sealed.files)
    return {
        name: sha256(folder / name) for name in _only_weights({path.name: "" for path in sorted(folder.glob("*.*"))})
    }


def _only_weights(files: dict[str, str]) -> dict[str, str]:
    return {
        name: checksum
        for name, checksum in files.items()
        if name.endswith(_WEIGHTS_SUFFIX) or name.startswith(_SHARDS_PREFIX)
    }


def best_weights(checkpoint: Path) -> dict[str, str] | None:
    """The checksums of the best weights of a run up to `checkpoint`, or None if it has chosen none yet.

    They are in the checkpoint of the best step, in the same folder; the run may have been moved since.

    Raises:
        ValueError: they are missing or have changed.
    """
    step = read_json(checkpoint / STATE).get("best_global_step")
    if not step:
        return None
    best, sealed = checkpoint_of(checkpoint.parent, step), recorded(checkpoint)
    try:
        expected = (sealed and sealed.best_weights) or weight_files(best)
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
