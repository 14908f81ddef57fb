"""Staging folders: a folder is written beside its final place, and removed later if the process is killed."""

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
except ModuleNotFoundError:  # Windows has no such locks, so left staging folders are not recognised
    fcntl = None

logger = logging.getLogger(__name__)

#: The end of the name of a locked staging folder. If such a folder has no lock, the process that made it is dead.
LOCKED = ".hf_effattn-export"


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder beside `folder` to write into. At the end it is removed, unless it was moved into place.

    First, staging folders of killed processes for the same `folder` are removed. A lock that ends with its process
    says that a staging folder is in use. A locked folder has the name ``.<name>-????????.hf_effattn-export``. Where
    folders cannot be locked, the name has no such end, and a staging folder stays when its process is killed.

    Raises:
        OSError: no folder can be made there.
    """
    _remove_abandoned(folder)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    lock = _lock(staging)
    try:
        if lock is not None:
            staging = staging.replace(staging.with_name(staging.name + LOCKED))
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove the staging folders of `folder` that no process has locked."""
    name = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}{re.escape(LOCKED)}")
    for path in [path for path in folder.parent.iterdir() if name.fullmatch(path.name)]:
        if (lock := _lock(path)) is not None:
            logger.warning("removing %s, which was left by an export that was killed", path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed; None if it is locked already or cannot be locked."""
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
