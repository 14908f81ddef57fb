"""The film reviews: what is read, how it is split, and what is refused."""

import hashlib
from itertools import pairwise

import pytest
from datasets import Dataset, DatasetDict

from hf_effattn.data.checksums import content_checksum
from hf_effattn.data.tokenize import tokenize
from hf_effattn.lra import get_task, text
from hf_effattn.tokenization import byte_tokenizer


@pytest.fixture(scope="module")
def splits():
    return get_task("text").load("package")


#: The splits that results refer to. If one of these changes, it is another benchmark.
CHECKSUMS = {
    "train": "78975c1efc2da06a718602ca89282c25a866228c9b3ecc8c419db2694156a22a",
    "validation": "1a049ba5c4fff213a971c07be15ca93808c0708a8863b629340eaefa918edbeb",
    "test": "0f2f546b8bfe5993191386cc9f25ee37df5d452d3fa5f722e0a820c267d10524",
}


def test_the_splits_never_change(splits):
    assert {name: content_checksum(split) for name, split in splits.items()} == CHECKSUMS


def test_sizes_and_labels(splits):
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 17_434,
        "validation": 2_490,
        "test": 4_980,
    }
    for split in splits.values():
        assert abs(sum(split["label"]) / len(split) - 0.5) < 0.005, "stratified"
        assert split.features["label"].names == ["negative", "positive"]


def test_no_text_stands_twice(splits):
    keys = [text.repeat_key(row) for split in splits.values() for row in split["text"]]
    assert len(keys) == len(set(keys)) == 24_904


def test_splits_are_shuffled(splits):
    for split in splits.values():
        labels = split["label"]
        changes = sum(a != b for a, b in pairwise(labels))
        assert abs(changes / len(labels) - 0.5) < 0.05


def test_a_place_depends_on_the_text_alone():
    rows = [{"text": f"review {i}", "label": i % 2} for i in range(200)]
    shares = {"test": 0.2, "validation": 0.1}
    forward = text.split_reviews(Dataset.from_list(rows), shares)
    backward = text.split_reviews(Dataset.from_list(rows[::-1]), shares)
    assert {name: split["text"][:] for name, split in forward.items()} == {
        name: split["text"][:] for name, split in backward.items()
    }
    assert {name: len(split) for name, split in forward.items()} == {"train": 140, "test": 40, "validation": 20}


def test_repeats_are_found_whatever_the_case_and_spaces():
    rows = Dataset.from_dict({"text": ["A film", "a  FILM\n", "b", "c"], "label": [0, 1, 0, 1]})
    assert text.without_repeats(rows, seen=["c"])["text"][:] == ["A film", "b"]


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,source\nfine,1,imdb\n")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"has SHA-256 {checksum}, expected {text.PACKAGE_SHA256}. Reinstall"):
        text.read_package(path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_effattn\[train\]".*source="hub"'):
        text.load_text("package")


def test_unknown_sources_and_tasks_are_refused():
    with pytest.raises(ValueError, match="unknown source 'web'"):
        text.load_text("web")
    with pytest.raises(ValueError, match="unknown task 'texts'"):
        get_task("texts")


def imdb(train, test):
    return DatasetDict(
        {
            name: Dataset.from_dict({"text": rows, "label": [i % 2 for i in range(len(rows))]})
            for name, rows in (("train", train), ("test", test))
        }
    )


def test_the_hub_source_keeps_the_official_test_and_validates_on_training_data(monkeypatch):
    train, test = [f"train {i}" for i in range(25_000)], [f"test {i}" for i in range(25_000)]
    train[7] = "TEST  3"
    official = imdb(train, test)
    official["test"] = official["test"].sort("label")
    monkeypatch.setattr(text, "load_dataset", lambda name: official)
    splits = text.load_text("hub")
    assert sorted(splits["test"]["text"]) == sorted(test)
    assert 400 < sum(splits["test"]["label"][:1000]) < 600, "the first rows have both labels"
    for split in splits.values():
        assert split.features["label"].names == ["negative", "positive"]
        assert [int(row.split()[-1]) % 2 for row in split["text"]] == split["label"][:], "each keeps its own"
    rest = {*splits["train"]["text"], *splits["validation"]["text"]}
    assert rest == {*train} - {"TEST  3"}
    assert len(splits["validation"]) == 2_500
    monkeypatch.setattr(text, "load_dataset", lambda name: imdb(train[:10], test))
    with pytest.raises(ValueError, match="should hold 25,000 training and 25,000 test reviews, got"):
        text.load_text("hub")


def test_tokenize_cuts_at_the_length():
    splits = DatasetDict(train=Dataset.from_dict({"text": ["abcdef", "a"], "label": [0, 1]}))
    encoded = tokenize(splits, byte_tokenizer(4), 4)["train"]
    assert encoded["input_ids"][:] == [[1, 101, 102, 103], [1, 101]]
    assert set(encoded.column_names) == {"label", "input_ids", "attention_mask"}
