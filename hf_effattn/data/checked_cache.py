"""The cache of `datasets`, checked: `datasets` reuses what it computed once by file name, without a look inside."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset
from transformers.utils.logging import get_logger

from ..files import read_json, sha256, write_json


logger = get_logger(__name__)

#: Suffix of the file that holds the checksum of a file in the cache.
CHECKSUM = ".sha256.json"


def checked(make: Callable[[bool], Dataset], source: Dataset | None = None) -> Dataset:
    """The rows that `make` gives, computed anew if the files that they come from have changed since they were written.

    The checksum of every file is written beside it when the file is. A file that was there before and has none, as
    other programs leave them, is computed anew as well.

    Args:
        make: gives rows, which `datasets` may take from its cache unless the argument says to compute them anew.
        source: the rows that they are made of; the files of these are not checked.
    """
    given = set() if source is None else set(_files(source))
    began = time.time_ns()
    try:
        rows = make(False)
        doubts = (_doubt(path, began) for path in _files(rows) if path not in given)
        doubt = next((reason for reason in doubts if reason is not None), None)
    except (OSError, pyarrow.ArrowException) as error:
        doubt = f"the cache cannot be read ({error})"
    if doubt is not None:
        logger.warning(f"{doubt}: it is computed anew")
        rows = make(True)
    for path in set(_files(rows)) - given:
        if doubt is not None or not _checksum_file(path).exists():
            write_json(_checksum_file(path), sha256(path))
    return rows


def checked_map(rows: Dataset, function: Callable[..., Any], **options: Any) -> Dataset:
    """`rows.map`, `checked`."""
    return checked(lambda anew: rows.map(function, load_from_cache_file=not anew, **options), rows)


def _files(rows: Dataset) -> list[Path]:
    return [Path(file["filename"]) for file in rows.cache_files]


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM)


def _doubt(path: Path, began: int) -> str | None:
    """Why a file may have changed since it was written; None if it has not, or was written after `began`."""
    if path.stat().st_mtime_ns >= began:
        _checksum_file(path).unlink(missing_ok=True)
        return None
    if not _checksum_file(path).exists():
        return f"{path} has no checksum"
    try:
        expected = read_json(_checksum_file(path))
    except ValueError as error:
        return str(error)
    return None if sha256(path) == expected else f"{path} has changed since it was written"
