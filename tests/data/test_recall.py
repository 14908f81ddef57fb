"""Associative recall: every label is the value that its key had, and nothing else tells it."""

import numpy as np
import pytest

from hf_effattn.data.collate import IGNORED
from hf_effattn.lra import get_task, recall
from hf_effattn.lra.recall import CLS, FILLER, FIRST_KEY, Parameters, generate_recall


SMALL = Parameters(pairs=4, keys=8, values=5, length=24)


@pytest.fixture(scope="module")
def splits():
    return generate_recall({"train": 400, "validation": 50, "test": 50}, SMALL)


def test_the_splits_have_the_sizes_asked_for(splits):
    assert {name: len(split) for name, split in splits.items()} == {"train": 400, "validation": 50, "test": 50}


def test_every_label_is_the_value_of_its_key(splits):
    """Read from the tokens alone: the key before each value, in the first part."""
    for row in splits["train"]:
        ids, labels = row["input_ids"], row["labels"]
        assert ids[0] == CLS and len(ids) == len(labels) == 24
        values = dict(zip(ids[1:9:2], ids[2:9:2], strict=True))
        assert len(values) == 4
        asked = [place for place, label in enumerate(labels) if label != IGNORED]
        assert sorted(ids[place] for place in asked) == sorted(values), "every key is asked for once"
        for place in asked:
            assert labels[place] == values[ids[place]] - FIRST_KEY - SMALL.keys
        assert {token for place, token in enumerate(ids) if place > 8 and place not in asked} <= {FILLER}


def test_a_key_alone_tells_nothing(splits):
    table = np.zeros((SMALL.keys, SMALL.values))
    for row in splits["train"]:
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            if label != IGNORED:
                table[token - FIRST_KEY, label] += 1
    assert (table.max(1) / table.sum(1)).mean() < 0.35, "1 in 5 by chance"


def test_queries_come_soon_more_often_than_late(splits):
    places = np.array([[label != IGNORED for label in row["labels"]] for row in splits["train"]]).mean(0)
    assert places[9] > 2 * places[23] > 0


def test_the_same_arguments_give_the_same_splits_and_others_do_not(splits):
    sizes = {"train": 400, "validation": 50, "test": 50}
    assert generate_recall(sizes, SMALL)["test"][:] == splits["test"][:]
    assert generate_recall(sizes, SMALL, seed=1)["test"][:] != splits["test"][:]
    assert splits["validation"][:] != splits["test"][:]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": 9, "keys": 8, "length": 100}, "9 pairs need as many different keys, but there are 8"),
        ({"pairs": 8, "keys": 8, "length": 24}, "need 25 tokens, got 24"),
    ],
)
def test_impossible_parameters_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**fields)


def test_unknown_sources_are_refused():
    with pytest.raises(ValueError, match="unknown source 'hub'"):
        recall.load_recall("hub")


@pytest.mark.parametrize("task", recall.TASKS)
def test_the_benchmark_is_always_the_same(task):
    splits = get_task(task).load("generated")
    assert {name: len(split) for name, split in splits.items()} == recall.SPLIT_SIZES
    assert max(map(max, splits["test"]["input_ids"])) == get_task(task).vocab_size() - 1


def test_another_generator_is_noticed(monkeypatch):
    monkeypatch.setattr(recall, "SPLIT_SIZES", {"train": 20, "validation": 10, "test": 10})
    with pytest.raises(ValueError, match="the generated train split has SHA-256"):
        recall.load_recall()
