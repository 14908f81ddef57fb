"""Folders that are written beside their place, and that do not stay when the process that wrote them is killed."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where nobody can tell whether a draft is still written
    fcntl = None

logger = logging.getLogger(__name__)

#: How the names of drafts end that are locked, so that one without a lock is that of a dead process.
LOCKED = ".hf_effattn-export"


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into; at the end it is removed, unless it was moved into place.

    Drafts of the same folder whose process was killed are removed first. A draft holds a lock that ends with its
    process, and gets its name, ``.<name>-????????.hf_effattn-export``, when it has it; where folders cannot be locked,
    it has no such name, and a kill leaves it.

    Raises:
        OSError: no folder can be made there.
    """
    _remove_left(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    lock = _lock(draft)
    try:
        if lock is not None:
            draft = draft.replace(draft.with_name(draft.name + LOCKED))
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove the drafts of `folder` that no process holds."""
    name = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}{re.escape(LOCKED)}")
    for path in [path for path in folder.parent.iterdir() if name.fullmatch(path.name)]:
        if (lock := _lock(path)) is not None:
            logger.warning("removing %s, which an export left that was killed", path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None if another one does, or if it cannot be locked."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
