"""Write a self-contained checkpoint in one step: either the whole folder is there, or the one before it."""

import os
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import fsync_tree


#: Endings of the files that a checkpoint consists of: config, weights, code, tokenizer, card.
FILES = (".json", ".safetensors", ".py", ".txt", ".jinja", ".md")


def export_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path) -> Path:
    """Save weights, config, code and tokenizer, if any, to `folder`, replacing what is there once all is written.

    The files are written to a sibling folder, flushed to disk and moved into place; a full disk or an interrupt on
    the way leaves the earlier checkpoint as it was. A kill between the two renames of the move leaves it in a hidden
    folder beside, ``.<name>-old-*``.

    Raises:
        FileExistsError: `folder` exists and holds something else than a checkpoint, or more (nothing is touched).
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    _check_replaceable(folder)
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


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds something that is not a checkpoint; choose another folder")
    # A clone of a repository, or a project, has a config.json as well.
    others = sorted(path.name for path in folder.iterdir() if not _of_checkpoint(path))
    if others:
        raise FileExistsError(f"{folder} holds more than a checkpoint, {others}; remove it, or choose another folder")


def _of_checkpoint(path: Path) -> bool:
    return path.name == "__pycache__" or (path.is_file() and path.suffix in FILES)


def _move_into_place(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if not folder.exists():
        os.rename(staging, folder)
        return
    # A folder cannot be replaced in one system call, so the earlier one steps aside and comes back on failure.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    try:
        os.rename(folder, aside)
        os.rename(staging, folder)
    except BaseException:
        if aside.exists():
            os.rename(aside, folder)
        aside.parent.rmdir()
        raise
    shutil.rmtree(aside.parent, ignore_errors=True)
