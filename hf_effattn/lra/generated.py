"""Generated rows in the cache: whole or absent, and never those of another generator."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow
from datasets import Dataset, DatasetDict, Features
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock
from transformers.utils.logging import get_logger

from ..files import fsync_tree, read_json, sha256, write_json


logger = get_logger(__name__)

Row = dict[str, Any]
#: Takes arguments by name, and gives rows.
Generator = Callable[..., Iterator[Row]]

#: What reading the rows warned of; said again whenever they come from the cache.
WARNINGS = "warnings.json"
#: The checksums of the files of the rows, compared whenever they come from the cache.
CHECKSUMS = "checksums.json"


def generated(
    name: str,
    version: int,
    generator: Generator,
    arguments: dict[str, Any],
    features: Features,
    num_proc: int | None = None,
    content: str = "",
) -> Dataset:
    """The rows that `generator` gives, drawn once and then read from the cache.

    They lie in ``hf_effattn/<name>-v<version>-<digest of the arguments>`` in the cache of `datasets`. They are drawn
    elsewhere and moved there when they are whole and on disk, so nothing of a generation that was interrupted is ever
    read; of several processes that ask at once, one draws and the others wait.

    `datasets` has a cache of its own, but looks up a generator there by its name and not by its code, and draws in a
    folder that the workers of an interrupted generation may still be writing to.

    Args:
        name: the generator's.
        version: to be raised whenever the same arguments give other rows.
        generator: takes the arguments by name, and gives the rows.
        arguments: numbers, texts, lists and dicts. A list is dealt among the processes.
        features: of the rows.
        num_proc: processes; the rows do not depend on it.
        content: a digest of what the generator reads from files, if it does: rows of other content are read anew.

    Raises:
        ValueError: the rows in the cache are damaged, or the generator raises it.
    """
    key = json.dumps([name, version, arguments, *([content] if content else [])], sort_keys=True)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_effattn" / f"{name}-v{version}-{_digest(key)}"
    drawn = False
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                _generate(folder, generator, arguments, features, num_proc)
                drawn = True
    try:
        if not drawn:
            _check(folder)
        if not drawn and (folder / WARNINGS).is_file():
            for message in read_json(folder / WARNINGS):
                logger.warning(message)
        return Dataset.load_from_disk(folder)
    except (OSError, ValueError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        raise ValueError(f"the rows in {folder} are damaged ({error}); delete the folder, and run again") from error


def _check(folder: Path) -> None:
    """Raise ValueError or OSError if a file of the rows is missing or has changed since it was written."""
    if not (folder / CHECKSUMS).is_file():
        logger.warning(
            f"the rows in {folder} have no {CHECKSUMS}, as an earlier version wrote them: whether they have changed "
            "since cannot be seen. Delete the folder to have them made anew"
        )
        return
    for name, expected in read_json(folder / CHECKSUMS).items():
        if (found := sha256(folder / name)) != expected:
            raise ValueError(f"{name} has SHA-256 {found}, not {expected}")


def cut_into_splits(rows: Dataset, order: Sequence[int], sizes: dict[str, int]) -> DatasetDict:
    """Splits of the given sizes, one after the other, of those of `rows` whose indices are in `order`."""
    splits, start = {}, 0
    for name, size in sizes.items():
        splits[name] = rows.select(order[start : start + size])
        start += size
    return DatasetDict(splits)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _generate(
    folder: Path,
    generator: Generator,
    arguments: dict[str, Any],
    features: Features,
    num_proc: int | None,
) -> None:
    """Draw the rows, and move them to `folder` at last."""
    scratch_name = f".{folder.name}-"
    # Whoever holds the lock is alone, so what lies there is of a process that was killed.
    for left in folder.parent.glob(f"{scratch_name}*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=folder.parent, prefix=scratch_name, ignore_cleanup_errors=True) as scratch:
        try:
            with _warnings() as messages:
                rows = Dataset.from_generator(
                    _supervised,
                    features=features,
                    cache_dir=str(Path(scratch) / "draft"),
                    gen_kwargs={"generator": generator, "main": os.getpid(), **arguments},
                    num_proc=num_proc,
                    fingerprint=_digest(folder.name),
                )
        except DatasetGenerationError as error:
            # It says nothing but that there was an error.
            raise (error.__cause__ or error) from None
        whole = Path(scratch) / "rows"
        rows.save_to_disk(whole)
        if messages:
            write_json(whole / WARNINGS, messages)
        files = sorted(path for path in whole.rglob("*") if path.is_file())
        write_json(whole / CHECKSUMS, {path.relative_to(whole).as_posix(): sha256(path) for path in files})
        fsync_tree(whole)
        whole.rename(folder)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the modules of this package warn of meanwhile, in this process."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    watched = logging.getLogger(__package__)
    watched.addHandler(handler)
    try:
        yield messages
    finally:
        watched.removeHandler(handler)


def _supervised(generator: Generator, main: int, **arguments: Any) -> Iterator[Row]:
    """The rows, as long as the process `main` lives: this may be its worker, which would outlive a killed `main`."""
    for row in generator(**arguments):
        if main not in (os.getpid(), os.getppid()):
            os._exit(1)
        yield row
