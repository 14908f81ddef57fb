"""Write a self-contained checkpoint in one step: either the whole folder is there, or the one before it."""

import os
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import fsync_tree


def export_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path) -> Path:
    """Save weights, config, code and tokenizer, if any, to `folder`, replacing what is there once all is written.

    The files are written to a sibling folder, flushed to disk and moved into place; a full disk or a kill on the
    way leaves the earlier checkpoint as it was.

    Raises:
        FileExistsError: `folder` exists and does not hold a checkpoint (nothing is touched).
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds something that is not a checkpoint; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        fsync_tree(staging)
        _move_into_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _move_into_place(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if not folder.exists():
        os.rename(staging, folder)
        return
    # A folder cannot be replaced in one system call, so the earlier one steps aside and comes back on failure.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.rename(folder, aside / folder.name)
    try:
        os.rename(staging, folder)
    except OSError:
        os.rename(aside / folder.name, folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
