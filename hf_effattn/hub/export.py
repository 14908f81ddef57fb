"""Writes a self-contained checkpoint. Afterwards the folder holds either the new checkpoint or the earlier one."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ..files import disk_errors, fsync_tree, read_json, sha256, write_json
from ..version import __version__
from .checkpoint_files import EXPORT_RECORD
from .staging import staging_folder


def export_checkpoint(
    model: PreTrainedModel, processor: PreTrainedTokenizerBase | BaseImageProcessor | None, folder: str | Path
) -> Path:
    """Save weights, config, code and processor to `folder`. An earlier export there is replaced.

    An export writes the hashes of its files to a hidden file, which is never published. A later export replaces
    exactly these files. If the folder holds any other file, or a file was changed since, it is refused.

    The files are written to a folder beside `folder`, flushed to disk, and moved into place. A full disk or an
    interrupt leaves the earlier checkpoint as it was. A kill does so too, and the next export removes the unfinished
    files (`staging_folder`). If a kill comes between the two renames of the move, the earlier checkpoint is in a
    hidden folder beside, ``.<name>-old-*``.

    Args:
        model: the model.
        processor: the tokenizer, or the image processor of a classifier of pictures; None if there is none.
        folder: the folder to write to.

    Raises:
        FileExistsError: `folder` holds something that no export has written, such as a card, or a model that was
            trained or changed there. Nothing is touched.
        OSError: the files cannot be written.
    """

    def save(staging: Path) -> None:
        model.save_pretrained(staging)
        if processor is not None:
            processor.save_pretrained(staging)

    return replace_export(Path(folder), save, kind="checkpoint", sign="config.json")


def replace_export(folder: Path, write: Callable[[Path], None], kind: str, sign: str) -> Path:
    """Write a folder in one step, with a record of its files. An earlier export of the same kind is replaced.

    Args:
        folder: the folder to write to.
        write: writes all files into the empty folder that it gets.
        kind: the word for such a folder in messages.
        sign: a file that every such folder has.

    Raises:
        FileExistsError, OSError: see `export_checkpoint`.
    """
    _check_replaceable(folder, kind, sign)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder) as staging:
        with disk_errors(folder, "make room, or choose another folder"):
            write(staging)
        hashes = {path: sha256(staging / path) for path in _files(staging)}
        write_json(staging / EXPORT_RECORD, {"hf_effattn": __version__, "files": hashes})
        fsync_tree(staging)
        _move_into_place(staging, folder)
    return folder


def weight_checksums(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every weight file of a checkpoint, by name."""
    return {path.name: sha256(path) for path in sorted(Path(folder).glob("*.safetensors"))}


def _check_replaceable(folder: Path, kind: str, sign: str) -> None:
    """Raise FileExistsError if `folder` holds anything but an earlier export of its kind."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / sign).is_file():
        raise FileExistsError(f"{folder} holds something that is not a {kind}; choose another folder")
    if not (folder / EXPORT_RECORD).is_file():
        raise FileExistsError(
            f"{folder} holds a {kind} that no export has written; choose another folder, or move it away"
        )
    written = read_json(folder / EXPORT_RECORD)["files"]
    # The clone of a repository, or a project, can have a config.json as well.
    if others := sorted({path.split("/")[0] for path in _files(folder) if path not in written}):
        raise FileExistsError(f"{folder} holds more than a {kind}, {others}; remove it, or choose another folder")
    if changed := [path for path in _files(folder) if sha256(folder / path) != written[path]]:
        raise FileExistsError(
            f"{folder} holds files that were changed after their export, {changed}; choose another folder, or move it "
            "away"
        )


def _files(folder: Path) -> list[str]:
    """Return all files but the record of the export and the files that Python compiles."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    compiled = [path for path in found if path.parent.name == "__pycache__" and path.suffix == ".pyc"]
    return sorted(path.as_posix() for path in found if path.parts[0] != EXPORT_RECORD and path not in compiled)


def _move_into_place(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if not folder.exists():
        os.rename(staging, folder)
        return
    # No system call replaces a folder, so the earlier one is moved aside, and moved back on failure.
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
