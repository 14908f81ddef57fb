"""The cache of `datasets`: a file there that has changed since it was written is computed anew, or refused."""

import bz2
import gzip
import lzma
import os
import zipfile
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict

import hf_effattn
from hf_effattn.data.checked_cache import CHECKSUM, checked_map
from hf_effattn.data.tokenize import tokenize
from hf_effattn.lra import text
from hf_effattn.training.labels import with_class_ids
from hf_effattn.training.language import chunk_texts, cut_lines, with_next_tokens
from hf_effattn.training.user_data import DataArguments, load_splits


BYTES = hf_effattn.byte_tokenizer(16)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def replace(path, content):
    """Write a file anew as another program would, long ago; who has the former one mapped keeps it."""
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, (1, 1))
    other.replace(path)


@pytest.fixture
def rows(tmp_path):
    """Rows that lie in files, so that what is made of them does as well."""
    Dataset.from_dict({"text": ["one", " ", "two"], "label": ["a", "b", "a"]}).save_to_disk(str(tmp_path / "rows"))
    return Dataset.load_from_disk(str(tmp_path / "rows"))


MADE = {
    "tokenize": lambda rows: tokenize(DatasetDict(train=rows), BYTES, 16)["train"],
    "cut_lines": lambda rows: cut_lines(DatasetDict(train=rows.select_columns("text")), BYTES, 16)["train"],
    "chunk_texts": lambda rows: chunk_texts(DatasetDict(train=rows.select_columns("text")), BYTES, 16, False)["train"],
    "with_next_tokens": lambda rows: with_next_tokens(tokenize(DatasetDict(train=rows), BYTES, 16))["train"],
    "with_class_ids": lambda rows: with_class_ids(DatasetDict(train=rows), "label", ["a", "b"])["train"],
}


def cached(folder):
    return sorted(folder.glob("cache-*.arrow"))


def cut(content):
    return content[: len(content) // 2]


def changed(content):
    """Another letter, id or index: all of the bytes that are small, but for those of the form."""
    half = len(content) // 2
    return content[:half] + content[half:].replace(b"\x02\x00\x00\x00", b"\x01\x00\x00\x00").replace(b"two", b"owt")


@pytest.mark.parametrize("damage", [cut, changed, lambda content: b""], ids=["cut", "changed", "empty"])
@pytest.mark.parametrize("made", MADE)
def test_what_has_changed_is_computed_anew(rows, tmp_path, made, damage, caplog):
    expected = MADE[made](rows).to_dict()
    files = cached(tmp_path / "rows")
    assert files and all(path.with_name(path.name + CHECKSUM).is_file() for path in files)
    assert MADE[made](rows).to_dict() == expected and "computed anew" not in caplog.text
    for path in files:
        replace(path, damage(path.read_bytes()))
    assert MADE[made](rows).to_dict() == expected
    assert "it is computed anew" in caplog.text
    caplog.clear()
    assert MADE[made](rows).to_dict() == expected and "computed anew" not in caplog.text


@pytest.mark.parametrize("checksum", [None, b"", b'"another"\n'])
def test_a_file_without_its_checksum_is_computed_anew(rows, tmp_path, checksum, caplog):
    def upper(row):
        return {"text": row["text"].upper()}

    assert checked_map(rows, upper)["text"] == ["ONE", " ", "TWO"]
    (path,) = cached(tmp_path / "rows")
    replace(path, path.read_bytes().replace(b"TWO", b"OWT"))
    beside = path.with_name(path.name + CHECKSUM)
    beside.unlink() if checksum is None else beside.write_bytes(checksum)
    assert rows.map(upper)["text"] == ["ONE", " ", "OWT"], "this is what datasets does"
    assert checked_map(rows, upper)["text"] == ["ONE", " ", "TWO"]
    assert "it is computed anew" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
def test_rows_of_a_file_of_ones_own_are_read_anew(tmp_path, cache, kind, caplog):
    source = Dataset.from_dict({"text": ["one", "three", "two"] * 5})
    path = tmp_path / f"rows.{kind}"
    write = {"csv": source.to_csv, "jsonl": source.to_json, "parquet": source.to_parquet}
    write[kind](path) if kind in write else path.write_text("one\nthree\ntwo\n" * 5)

    def read():
        splits = load_splits(DataArguments(train_file=str(path), validation_share=0.2), {"text": "text"})
        return {name: list(split["text"]) for name, split in splits.items()}

    expected = read()
    (file,) = cache.rglob("*-train.arrow")
    assert b"three" in file.read_bytes()
    replace(file, file.read_bytes().replace(b"three", b"eerht"))
    assert read() == expected and "has changed since it was written: it is computed anew" in caplog.text
    for choice in cache.rglob("cache-*.arrow"):
        replace(choice, choice.read_bytes().replace(b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0"))
    assert read() == expected


def test_film_reviews_that_have_changed_in_the_cache_are_refused(cache):
    text.load_text("package")
    filtered = [path for path in cache.rglob("*.arrow") if path.name.startswith("cache-")]
    (read,) = (path for path in cache.rglob("*.arrow") if path not in filtered)
    content = read.read_bytes()
    assert b" film " in content
    replace(read, content.replace(b" film ", b" flim ", 1))
    for path in filtered:
        path.unlink()
    with pytest.raises(ValueError, match=r"split has SHA-256 .* in the cache are damaged.* and delete .*csv"):
        text.load_text("package")


def packed(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows", "text\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(gzip.compress(b"text\none\n")),
        lambda path: path.write_bytes(bz2.compress(b"text\none\n")),
        lambda path: path.write_bytes(lzma.compress(b"text\none\n")),
        packed,
    ],
    ids=["gzip", "bz2", "xz", "zip"],
)
def test_a_packed_file_is_not_unpacked(tmp_path, kind, write):
    path = Path(tmp_path / f"rows.{kind}")
    write(path)
    with pytest.raises(ValueError, match=rf"rows\.{kind} is packed \(.*\) and not .*: unpack it"):
        load_splits(DataArguments(train_file=str(path)), {"text": "text"})
