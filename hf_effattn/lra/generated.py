"""A cache of generated rows. An entry is either whole or absent, and belongs to one version of one generator."""

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

#: The warnings that were logged while the rows were made. They are logged again whenever the rows come from the cache.
WARNINGS = "warnings.json"
#: The checksums of the files of the rows. They are compared whenever the rows come from the cache.
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
    """Return the rows of `generator`, which are made once and then read from the cache.

    The rows lie in ``hf_effattn/<name>-v<version>-<digest of the arguments>`` in the cache of `datasets`. They are
    written to a scratch folder, and moved there once they are whole and on disk, so the rows of an interrupted
    generation are never read. If several processes ask for the same rows, one of them makes the rows and the others
    wait.

    The cache of `datasets` itself does not serve here: it finds a generator by its name and not by its code, and it
    writes to a folder that the workers of an interrupted generation may still be writing to.

    Args:
        name: the name of the generator.
        version: a number that has to be raised whenever the same arguments give other rows.
        generator: takes the arguments by name, and yields the rows.
        arguments: numbers, texts, lists and dicts. The entries of a list are shared among the processes.
        features: the features of the rows.
        num_proc: the number of processes; the rows do not depend on it.
        content: if the generator reads files, a digest of their content. Another content makes another cache entry.

    Raises:
        ValueError: the rows in the cache are damaged, or the generator raises this error.
    """
    key = json.dumps([name, version, arguments, *([content] if content else [])], sort_keys=True)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_effattn" / f"{name}-v{version}-{_digest(key)}"
    made_now = False
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                _generate(folder, generator, arguments, features, num_proc)
                made_now = True
    try:
        if not made_now:
            _check(folder)
        if not made_now and (folder / WARNINGS).is_file():
            for message in read_json(folder / WARNINGS):
                logger.warning(message)
        return Dataset.load_from_disk(folder)
    except (OSError, ValueError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        raise ValueError(f"the rows in {folder} are damaged ({error}); delete the folder, and run again") from error


def _check(folder: Path) -> None:
    """Raise ValueError or OSError if a file of the rows is missing or has changed since it was written."""
    if not (folder / CHECKSUMS).is_file():
        logger.warning(
            f"the rows in {folder} have no {CHECKSUMS}, as an earlier version wrote them, so a change since then "
            "cannot be noticed. Delete the folder, and the rows are made anew"
        )
        return
    for name, expected in read_json(folder / CHECKSUMS).items():
        if (found := sha256(folder / name)) != expected:
            raise ValueError(f"{name} has SHA-256 {found}, not {expected}")


def cut_into_splits(rows: Dataset, order: Sequence[int], sizes: dict[str, int]) -> DatasetDict:
    """Take the `rows` in the order of the given indices, and cut them into splits of the given sizes."""
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
    """Make the rows in a scratch folder, then move them to `folder`."""
    scratch_name = f".{folder.name}-"
    # Only the process with the lock writes here, so older scratch folders were left by processes that were killed.
    for left in folder.parent.glob(f"{scratch_name}*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=folder.parent, prefix=scratch_name, ignore_cleanup_errors=True) as scratch:
        try:
            with _warnings() as messages:
                rows = Dataset.from_generator(
                    _supervised,
                    features=features,
                    cache_dir=str(Path(scratch) / "unfinished"),
                    gen_kwargs={"generator": generator, "main": os.getpid(), **arguments},
                    num_proc=num_proc,
                    fingerprint=_digest(folder.name),
                )
        except DatasetGenerationError as error:
            # This error says nothing; its cause is the error of the generator.
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
    """Collect the warnings that the modules of this package log in this process."""
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
    """Yield the rows while the process `main` lives. This may be a worker of `main`, and must not outlive it."""
    for row in generator(**arguments):
        if main not in (os.getpid(), os.getppid()):
            os._exit(1)
        yield row
