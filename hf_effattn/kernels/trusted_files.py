"""Check whether files of a cache can be trusted: nobody but this user can have written them, and they are complete.

A compiled library runs with all rights of the process that loads it, so a file name is no proof. The same rules hold
for root, since a folder of another user may be hostile to root as well.
"""

import hashlib
import os
import stat
from pathlib import Path


#: Suffix of the file that holds the checksum of the file beside it.
CHECKSUM = ".sha256"

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(folder: Path) -> None:
    """Make a folder and its missing parents, writable for this user only.

    If the folder exists, belongs to this user and others can write to it, they lose the right to write.

    Raises:
        OSError: it cannot be made.
    """
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    info = folder.stat()
    if info.st_uid == os.geteuid() and info.st_mode & OTHERS_WRITE:
        folder.chmod(stat.S_IMODE(info.st_mode) & ~OTHERS_WRITE)


def distrust(folder: Path) -> str | None:
    """Why another user could put a file into this folder, or None.

    It has to belong to this user, and nobody else may write to it. Its parents have to belong to this user or to root,
    and nobody else may be able to replace one of them.

    Args:
        folder: an absolute path without links.

    Raises:
        OSError: there is no such folder.
    """
    own = os.geteuid()
    info = folder.stat()
    if info.st_uid != own:
        return f"{folder} belongs to user {info.st_uid}, not to user {own} who runs this"
    if info.st_mode & OTHERS_WRITE:
        return f"others can write to {folder}"
    # Where ids of users are mapped, as in a container, root is whoever owns the root of the files.
    trusted = {own, os.stat("/").st_uid}
    for parent in folder.parents:
        info = parent.stat()
        if info.st_uid not in trusted:
            return f"{parent}, which leads to {folder}, belongs to user {info.st_uid}"
        # In a folder with the sticky bit, such as /tmp, users can replace only their own files.
        if not info.st_mode & stat.S_ISVTX and _open_to_others(info, own):
            return f"others can write to {parent}, which leads to {folder}"
    return None


def _open_to_others(info: os.stat_result, own: int) -> bool:
    if info.st_mode & stat.S_IWOTH:
        return True
    return bool(info.st_mode & stat.S_IWGRP) and not _is_private_group(info.st_gid, own)


def _is_private_group(group_id: int, user_id: int) -> bool:
    """Whether a user is the only member of a group: many systems make such groups, and files writable for them."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(group_id), pwd.getpwuid(user_id)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def flaw(path: Path) -> str | None:
    """Why a file in a trusted folder cannot be used, or None if it is this user's and matches its checksum."""
    try:
        for file in (path, checksum_file(path)):
            info = file.lstat()
            if not stat.S_ISREG(info.st_mode):
                return f"{file} is no regular file"
            if info.st_uid != os.geteuid():
                return f"{file} belongs to user {info.st_uid}"
            if info.st_mode & OTHERS_WRITE:
                return f"others can write to {file}"
        if checksum_file(path).read_bytes() != _checksum(path):
            return f"{path} is not what was written: its SHA-256 is not that of {checksum_file(path).name}"
    except OSError as error:
        return f"{path} cannot be read: {error}"
    return None


def put_in_place(draft: Path, path: Path) -> None:
    """Move a file of the same disk to `path` after writing it out, and put its checksum beside it.

    A process that reads between the two steps finds a file without its checksum, and does not use it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    draft.chmod(0o700)
    _flush(draft)
    checksum = draft.with_name(draft.name + CHECKSUM)
    checksum.write_bytes(_checksum(draft))
    checksum.chmod(0o600)
    _flush(checksum)
    os.replace(draft, path)
    os.replace(checksum, checksum_file(path))
    _flush(path.parent)


def checksum_file(path: Path) -> Path:
    """Where the checksum of a file stands."""
    return path.with_name(path.name + CHECKSUM)


def _checksum(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
