"""Reads and writes files so that they are either whole or absent."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def fsync_tree(folder: Path) -> None:
    """Flush every file below `folder` to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            # Windows flushes only what may be written.
            with path.open("r+b") as file:
                os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: System errors of a full disk: no space left, the quota of the user reached, or the file too large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(place: str | Path, remedy: str) -> Iterator[None]:
    """Turn the error of a full disk into an OSError that names `place` and `remedy`.

    safetensors and torch raise errors of their own types if they cannot write; these become OSError as well.

    Args:
        place: the file or folder that is written.
        remedy: what the user can do.

    Raises:
        OSError: `place` cannot be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError, OSError) as error:
        number = error.errno if isinstance(error, OSError) else None
        # torch has no error type for this; the message names the source file that writes its archives.
        of_torch = isinstance(error, RuntimeError) and "inline_container" in str(error)
        if not (of_torch or isinstance(error, SafetensorError) or number in _FULL):
            raise
        message = f"{place} cannot be written ({error}): {remedy}"
        raise (OSError(message) if number is None else OSError(number, message)) from error


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON. `path` never holds a part of it, even if the process is killed."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text`. `path` never holds a part of it, even if the process is killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


def read_json(path: str | Path) -> Any:
    """Read a file that `write_json` wrote.

    Raises:
        ValueError: the file is damaged. The message says how to get a whole file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again the command that wrote it") from error
