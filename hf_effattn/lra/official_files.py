"""Reads the official files of the tasks: with a bound on memory, and with a report of the rows that are broken."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from transformers.utils import logging


logger = logging.get_logger(__name__)

Row = TypeVar("Row")

#: Bytes that are read at a time, so that memory grows only with what the file really holds.
PART = 2**20

#: The share of rows that may be broken before a file is refused.
MAX_BROKEN = 0.001

#: How many broken rows a message names.
NAMED = 5

#: Bytes of the longest line that is read, a hundred times as long as any line of the official files.
MAX_LINE = 2**24

WHOLE_NUMBER = re.compile(r"(-?[0-9]+)(\.0*)?")


def read_at_most(path: Path, longest: int) -> bytes:
    """Read a file of at most `longest` bytes; a file whose name ends in ``.gz`` is decompressed.

    Decompression stops after `longest` bytes: a file of zeros is a thousand times larger than its gzip file.

    Raises:
        ValueError: the file has more than `longest` bytes, or it is damaged.
    """
    content = bytearray()
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            while len(content) <= longest and (part := file.read(PART)):
                content += part
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); get the file anew") from error
    if len(content) > longest:
        raise ValueError(f"{path} has more than {longest:,} bytes, which is too long for such a file; get it anew")
    return bytes(content)


def report_broken_rows(source: object, broken: list[str], total: int, allowed: float, remedy: str) -> None:
    """Warn about the rows of `source` that are left out, or refuse `source` if there are too many of them.

    Args:
        source: the file or folder.
        broken: one text for each broken row, which says where it stands and what is wrong with it.
        total: the number of all rows, the broken ones included.
        allowed: the share of rows that may be broken.
        remedy: what the user can do if more rows are broken.

    Raises:
        ValueError: more rows than allowed are broken, or there are no rows at all.
    """
    if total == 0:
        raise ValueError(f"{source} has no rows; {remedy}")
    if not broken:
        return
    more = ["…"] if len(broken) > NAMED else []
    message = f"{source}: {len(broken):,} of {total:,} rows are broken: {'; '.join(broken[:NAMED] + more)}"
    if len(broken) > allowed * total:
        raise ValueError(f"{message}. At most {allowed:.1%} may be broken; {remedy}")
    logger.warning(f"{message}. They are left out")


def read_tsv(
    path: Path, columns: int, parse: Callable[[list[str]], Row], header: tuple[str, ...] = ()
) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file with tabs between its cells, each with the number of its line, from 1.

    A row is broken if it has more than `MAX_LINE` bytes (no more are held in memory), if it is not UTF-8, if it has
    another number of cells, or if `parse` finds an error in it. Up to `MAX_BROKEN` of the rows may be broken. They are
    left out, and a warning at the end counts them and names the first ones.

    Args:
        path: the file.
        columns: the number of cells in a row. There is no quoting: a cell may hold anything but tabs and line feeds.
        parse: makes a row from its cells, or raises ValueError and says what is wrong with them.
        header: the cells of the first line, if the first line is not a row.

    Raises:
        ValueError: the first line is not the header; or, at the end of the file, too many rows were broken or there
            were none.
    """
    whole, broken = 0, []
    with path.open("rb") as file:
        if header and (first := file.readline(MAX_LINE)).rstrip(b"\r\n") != "\t".join(header).encode():
            raise ValueError(
                f"{path}: the first line is {first[:80]!r}, not {' and '.join(header)} with a tab between"
            )
        for number, line in enumerate(_lines(file), start=2 if header else 1):
            try:
                row = parse(_cells(line, columns))
            except ValueError as error:
                broken.append(f"line {number} ({error})")
            else:
                whole += 1
                yield number, row
    report_broken_rows(path, broken, whole + len(broken), MAX_BROKEN, "repair the file, or get it anew")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; lines that are too long are cut after one byte too many."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def _cells(line: bytes, columns: int) -> list[str]:
    if len(line) > MAX_LINE:
        raise ValueError(f"it has more than {MAX_LINE:,} bytes")
    cells = line.decode().removesuffix("\n").removesuffix("\r").split("\t")
    if len(cells) != columns:
        raise ValueError(f"the number of cells is {len(cells)}, not {columns}")
    return cells


def class_id(cell: str, classes: int) -> int:
    """Read the label in a cell: a whole number, which may be written as ``1.0``.

    Raises:
        ValueError: the cell is not a whole number, or not the id of a class.
    """
    found = WHOLE_NUMBER.fullmatch(cell.strip())
    if found is None:
        raise ValueError(f"the label {cell[:20]!r} is not a whole number")
    if int(found[1]) not in range(classes):
        raise ValueError(f"the label {cell} is none of the {classes} classes")
    return int(found[1])
