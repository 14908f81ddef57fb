"""The reader of official files: what is a row, what is broken, and how much of it is too much."""

import logging
import tracemalloc

import pytest

from hf_effattn.lra import official_files
from hf_effattn.lra.official_files import class_id, read_tsv


def parse(cells):
    return class_id(cells[0], 3), cells[1]


def written(folder, lines):
    path = folder / "rows.tsv"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_rows_keep_their_lines_and_all_but_tabs(tmp_path):
    path = written(tmp_path, [b'0\tone "two"', b"2.0\t  \xc3\xa9 \r inside", b"1\t", b"0.\tlast, with CRLF\r"])
    assert dict(read_tsv(path, 2, parse)) == {
        1: (0, 'one "two"'),
        2: (2, "  é \r inside"),
        3: (1, ""),
        4: (0, "last, with CRLF"),
    }
    path.write_bytes(b"0\tno line feed at the end")
    assert dict(read_tsv(path, 2, parse)) == {1: (0, "no line feed at the end")}


BROKEN = [
    (b"0\tone\ttoo many", "the number of cells is 3, not 2"),
    (b"", "the number of cells is 1, not 2"),
    (b"yes\ttext", "the label 'yes' is not a whole number"),
    (b"1.5\ttext", "the label '1.5' is not a whole number"),
    (b"nan\ttext", "the label 'nan' is not a whole number"),
    (b"\ttext", "the label '' is not a whole number"),
    (b"3\ttext", "the label 3 is none of the 3 classes"),
    (b"-1\ttext", "the label -1 is none of the 3 classes"),
    (b"0\ta \xff b", "can't decode byte 0xff in position 4"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN)
def test_a_broken_row_is_named_with_its_line_and_reason(tmp_path, caplog, line, reason):
    good = [b"1\tgood"] * 999
    path = written(tmp_path, [*good[:500], line, *good[500:]])
    with caplog.at_level(logging.WARNING):
        rows = dict(read_tsv(path, 2, parse))
    assert set(rows) == set(range(1, 1001)) - {501} and set(rows.values()) == {(1, "good")}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: 1 of 1,000 rows are broken: line 501 (")
    assert reason in record.getMessage() and record.getMessage().endswith("They are left out")
    path = written(tmp_path, [*good[:499], line, *good[500:]])
    with pytest.raises(
        ValueError, match=r"1 of 999 rows are broken: line 500 \(.*At most 0\.1% may be broken; repair"
    ):
        dict(read_tsv(path, 2, parse))


def test_five_lines_are_named_and_all_are_counted(tmp_path, caplog, monkeypatch):
    path = written(tmp_path, [b"1\tgood", *[line for line, _ in BROKEN[:7]], b"1\tgood"])
    with pytest.raises(
        ValueError, match=r"7 of 9 rows are broken: line 2 .*; line 6 \(the label 'nan' is not a whole number\)"
    ):
        dict(read_tsv(path, 2, parse))
    monkeypatch.setattr(official_files, "MAX_BROKEN", 7 / 9)
    with caplog.at_level(logging.WARNING):
        assert set(dict(read_tsv(path, 2, parse))) == {1, 9}
    assert "line 6 (" in caplog.text and "line 7" not in caplog.text and "; …. They are left out" in caplog.text


def test_whole_files_meet_no_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dict(read_tsv(written(tmp_path, [b"1\tgood"] * 3), 2, parse))
    assert not caplog.records


def test_a_header_is_no_row_and_another_one_is_refused(tmp_path):
    path = written(tmp_path, [b"Label\tText\r", b"1\tgood", b"2\tbetter"])
    assert dict(read_tsv(path, 2, parse, header=("Label", "Text"))) == {2: (1, "good"), 3: (2, "better")}
    with pytest.raises(
        ValueError, match=r"rows\.tsv: the first line is b'Label\\tText\\r\\n', not Text and Label with"
    ):
        dict(read_tsv(path, 2, parse, header=("Text", "Label")))


@pytest.mark.parametrize("lines", [[], [b"Label\tText"]])
def test_a_file_without_rows_is_refused(tmp_path, lines):
    header = ("Label", "Text") if lines else ()
    with pytest.raises(ValueError, match=r"rows\.tsv has no rows; repair the file, or get it anew"):
        dict(read_tsv(written(tmp_path, lines), 2, parse, header=header))


def test_a_line_without_end_is_a_broken_row_and_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(official_files, "MAX_LINE", 1000)
    monkeypatch.setattr(official_files, "MAX_BROKEN", 0.5)
    long = b"1\t" + b"x" * 998
    path = written(tmp_path, [long[:-1], long + b"y", b"1\t" + b"x" * 5000, b"2\tafter"])
    assert [(number, label) for number, (label, _) in read_tsv(path, 2, parse)] == [(1, 1), (4, 2)]
    with path.open("ab") as file:
        file.truncate(2**27)
    monkeypatch.setattr(official_files, "MAX_LINE", 2**20)
    tracemalloc.start()
    assert len(dict(read_tsv(path, 2, parse))) == 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize("header", [(), ("Label", "Text")])
def test_a_file_of_one_line_without_end_is_refused(tmp_path, monkeypatch, header):
    monkeypatch.setattr(official_files, "MAX_LINE", 1000)
    path = tmp_path / "rows.tsv"
    path.write_bytes(bytes(10**5))
    with pytest.raises(
        ValueError, match="line 1 .it has more than 1,000 bytes" if not header else "the first line is"
    ):
        dict(read_tsv(path, 2, parse, header=header))
