"""Reads the official files: a row per line, its cells between tabs."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from .broken import leave_out


Row = TypeVar("Row")

#: The share of rows that may be broken before a file is refused.
MAX_BROKEN = 0.001

#: Bytes of the longest line that is read, a hundred times as long as any of the official files.
MAX_LINE = 2**24

WHOLE_NUMBER = re.compile(r"(-?[0-9]+)(\.0*)?")


def read_tsv(
    path: Path, columns: int, parse: Callable[[list[str]], Row], header: tuple[str, ...] = ()
) -> Iterator[tuple[int, Row]]:
    """The rows of a file, each with the number of its line, from 1.

    A row is broken if it has more than `MAX_LINE` bytes, of which no more are held in memory, is no UTF-8, has
    another number of cells, or `parse` finds something wrong with it. Up to `MAX_BROKEN` of the rows may be; they are
    left out, and at the end a warning counts them and names the first.

    Args:
        path: the file.
        columns: cells of a row. There is no quoting: a cell may hold anything but tabs and line feeds.
        parse: makes a row of its cells, or raises ValueError with what is wrong with them.
        header: the cells of the first line, if that is no row.

    Raises:
        ValueError: too many rows are broken or there are none, which shows at the end; or the first line is not the
            header.
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
    leave_out(path, broken, whole + len(broken), MAX_BROKEN, "repair the file, or get it anew")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, of which those that are too long are cut."""
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
    """The label in a cell: a whole number, which may be written as ``1.0``.

    Raises:
        ValueError: it is no number, or none of the classes.
    """
    found = WHOLE_NUMBER.fullmatch(cell.strip())
    if found is None:
        raise ValueError(f"the label {cell[:20]!r} is no whole number")
    if int(found[1]) not in range(classes):
        raise ValueError(f"the label {cell} is none of the {classes} classes")
    return int(found[1])
