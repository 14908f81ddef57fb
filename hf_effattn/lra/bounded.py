"""Reads files whose greatest size is known beforehand: no more of one is held in memory, whatever it unpacks to."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast


#: Bytes that are read at a time: room is made for what there is.
PART = 2**20


def read_at_most(path: Path, longest: int) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``.

    A thousandth of its size in gzip is enough for a file of zeros, so what is packed is not unpacked beyond `longest`.

    Raises:
        ValueError: it has more than `longest` bytes, or is damaged.
    """
    content = bytearray()
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            while len(content) <= longest and (part := file.read(PART)):
                content += part
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); get the file anew") from error
    if len(content) > longest:
        raise ValueError(f"{path} has more than {longest:,} bytes, and such a file has no more; get the file anew")
    return bytes(content)
