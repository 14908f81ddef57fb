"""Which files of a cache can be trusted: those that nobody but this user could have written, and that are whole.

A compiled library runs with all the rights of the process that loads it, so it is not taken by its name. The rules are
the same for root, to whom a folder of another user may be as hostile as to anyone.
"""

import hashlib
import os
import stat
from pathlib import Path


#: What the name of a file of a checksum ends with, beside the file that it is of.
CHECKSUM = ".sha256"

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(folder: Path) -> None:
    """Make a folder, and those that lead to it, where they are missing; nobody but this user can write to them.

    A folder of this user's to which others can write is closed to them.

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

    It has to belong to this user, who alone may write to it. Those that lead to it have to belong to this user or to
    root, and nobody else may put another folder in the place of one of them.

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
        # In a folder with the sticky bit, as /tmp has it, users replace nothing but what is theirs.
        if not info.st_mode & stat.S_ISVTX and _open_to_others(info, own):
            return f"others can write to {parent}, which leads to {folder}"
    return None


def _open_to_others(info: os.stat_result, own: int) -> bool:
    if info.st_mode & stat.S_IWOTH:
        return True
    return bool(info.st_mode & stat.S_IWGRP) and not _is_private_group(info.st_gid, own)


def _is_private_group(group_id: int, user_id: int) -> bool:
    """Whether a group is that of one user alone, as many systems give to each; its files are open to their group."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(group_id), pwd.getpwuid(user_id)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def flaw(path: Path) -> str | None:
    """What is wrong with a file of a folder that is trusted, or None if it is this user's and has its checksum."""
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
    """Move a file from a folder beside to `path`, once it is on the disk, and write its checksum beside it.

    Who reads between the two finds a file without its checksum, which is flawed.

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
