"""Which of a run's checkpoints can be trusted."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


#: Files that `Trainer` writes with `torch.save`, and without which a run cannot go on as it would have.
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")


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
    for name in _TORCH_FILES:
        # The directory of a zip file stands at its end, so a file cut short is none.
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    if not any(folder.glob("rng_state*.pth")):
        return "the state of the random numbers is missing"
    return None
