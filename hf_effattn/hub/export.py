"""Write a self-contained checkpoint in one step: either the whole folder is there, or the one before it."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import disk_errors, fsync_tree, sha256
from .audit import own_code


#: The files that an export writes beside those of code: config, weights, tokenizer.
FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|merges)\.(json|txt)"
    r"|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|chat_template\.jinja|__pycache__"
)


def export_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path) -> Path:
    """Save weights, config, code and tokenizer, if any, to `folder`, replacing an earlier export once all is written.

    The files are written to a sibling folder, flushed to disk and moved into place; a full disk or an interrupt on
    the way leaves the earlier checkpoint as it was. A kill between the two renames of the move leaves it in a hidden
    folder beside, ``.<name>-old-*``.

    Raises:
        FileExistsError: `folder` holds anything that an export does not write, such as a card or a script; nothing is
            touched.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with disk_errors(folder, "make room, or choose another folder"):
            model.save_pretrained(staging)
            if tokenizer is not None:
                tokenizer.save_pretrained(staging)
        fsync_tree(staging)
        _move_into_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def weight_checksums(folder: str | Path) -> dict[str, str]:
    """SHA-256 of every file of weights in a checkpoint, by name."""
    return {path.name: sha256(path) for path in sorted(Path(folder).glob("*.safetensors"))}


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds something that is not a checkpoint; choose another folder")
    # A clone of a repository, or a project, has a config.json as well.
    others = sorted(path.name for path in folder.iterdir() if not _of_export(path))
    if others:
        raise FileExistsError(f"{folder} holds more than a checkpoint, {others}; remove it, or choose another folder")


def _of_export(path: Path) -> bool:
    return FILES.fullmatch(path.name) is not None or path.name in own_code()


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
