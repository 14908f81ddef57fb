"""Tracing paths: what pixels answer, how much of it follows from where they are alone, and that nothing changes."""

from dataclasses import asdict

import datasets
import numpy as np
import pytest
from scipy import ndimage

from hf_effattn.data.collate import IGNORED
from hf_effattn.lra import get_task, pathfinder_tracing
from hf_effattn.lra.pathfinder_drawing import Parameters, lay_out
from hf_effattn.lra.pathfinder_tracing import PARAMETERS, generate_tracing, load_tracing, trace


SIDE = PARAMETERS.size


@pytest.fixture(scope="module")
def benchmark():
    return get_task("pathfinder_tracing").load("generated")


@pytest.fixture(scope="module")
def pictures(benchmark):
    """Shades and labels ``[pictures, pixels]``."""
    rows = benchmark["train"].with_format("numpy")[:20_000]
    return np.asarray(rows["input_ids"]) - 1, np.asarray(rows["labels"])


def test_the_benchmark_is_always_the_same(benchmark):
    assert {name: len(split) for name, split in benchmark.items()} == pathfinder_tracing.SPLIT_SIZES
    assert get_task("pathfinder_tracing").vocab_size() == max(map(max, benchmark["test"]["input_ids"])) + 1


def test_no_picture_is_in_two_places(benchmark):
    """Nor one that differs in its shades alone."""
    seen = set()
    for split in benchmark.values():
        for row in split.with_format("numpy"):
            seen.add((row["input_ids"].argmax(), row["labels"].tobytes()))
    assert len(seen) == sum(pathfinder_tracing.SPLIT_SIZES.values())
    few = Parameters(**{**asdict(PARAMETERS), "size": 10})
    with pytest.raises(ValueError, match=r"only \d+ different pictures were drawn, 1000 are needed"):
        generate_tracing({"train": 1000}, few)


def test_all_ink_but_the_circle_is_asked_about(pictures):
    shades, labels = pictures
    circles = shades == 255
    assert (circles.sum(axis=1) == 1).all() and (labels[circles] == IGNORED).all()
    # Ink that rounds to no shade at all is still a snake's.
    assert ((labels != IGNORED) >= ((shades > 0) & ~circles)).all()
    assert (labels[:, None] == np.array([0, 1])[:, None]).any(axis=2).all(), "both snakes are there"


def test_each_answer_is_one_path_and_only_one_begins_at_the_circle(pictures):
    """Read from picture and labels alone: gaps are narrow enough to follow the pixels of one answer over them."""
    for shades, labels in zip(*pictures, strict=True):
        image, answers = shades.reshape(SIDE, SIDE), labels.reshape(SIDE, SIDE)
        own = (answers == 1) | (image == 255)
        for path in (own, answers == 0):
            near = ndimage.distance_transform_edt(~path) <= 1.5
            assert ndimage.label(near, structure=np.ones((3, 3)))[1] == 1


def test_the_other_circle_swaps_the_answers():
    rng = np.random.default_rng(3)
    for _ in range(50):
        layout = lay_out(rng, PARAMETERS)
        (first, on_first), (second, on_second) = trace(layout, 0), trace(layout, 1)
        assert (first != second).sum() == 2, "the two beginnings"
        asked = (on_first != IGNORED) & (on_second != IGNORED)
        assert np.array_equal(on_first[asked], 1 - on_second[asked])
        assert np.argwhere(first == 255).tolist() == [list(layout.targets[0][0].anchor)]


def accuracy_of_a_table(cue, labels):
    """That of the commoner label for each value of the cue, learned on three quarters of the pictures."""
    count = len(labels) * 3 // 4
    asked = labels != IGNORED
    keys, ones = cue[:count][asked[:count]], labels[:count][asked[:count]]
    totals = np.bincount(keys, minlength=cue.max() + 1)
    table = 2 * np.bincount(keys, weights=ones, minlength=cue.max() + 1) > totals
    return (table[cue[count:][asked[count:]]] == labels[count:][asked[count:]]).mean()


def squared_distance(one, other):
    return (one // SIDE - other // SIDE) ** 2 + (one % SIDE - other % SIDE) ** 2


@pytest.mark.parametrize(
    ("cue", "expected"),
    [
        (lambda circle, pixel, shades: np.zeros_like(shades), 0.53),
        (lambda circle, pixel, shades: shades, 0.53),
        (lambda circle, pixel, shades: np.broadcast_to(pixel, shades.shape), 0.53),
        (lambda circle, pixel, shades: squared_distance(circle, pixel), 0.65),
        (lambda circle, pixel, shades: circle * SIDE**2 + pixel, 0.75),
    ],
    ids=["none", "shade", "place", "distance", "places"],
)
def test_what_can_be_told_without_following_the_paths(pictures, cue, expected):
    shades, labels = pictures
    values = cue(shades.argmax(axis=1)[:, None], np.arange(SIDE**2)[None], shades)
    assert accuracy_of_a_table(values, labels) == pytest.approx(expected, abs=0.015)


def test_rows_depend_on_the_seed_and_not_on_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(pathfinder_tracing, "SHARD", 10)
    results = []
    for processes, seed in ((1, 0), (2, 0), (1, 1)):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"{processes} {seed}")
        results.append(generate_tracing({"train": 25, "test": 25}, PARAMETERS, seed=seed, num_proc=processes))
    one, two, other = results
    assert one["train"].to_dict() == two["train"].to_dict() and one["test"].to_dict() == two["test"].to_dict()
    assert one["train"][:] != one["test"][:] != other["test"][:]
    assert {tuple(map(len, row.values())) for row in one["train"]} == {(SIDE**2, SIDE**2)}


def test_unknown_sources_and_other_pictures_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown source 'hub'; choose from"):
        load_tracing("hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(pathfinder_tracing, "SPLIT_SIZES", {"train": 4, "validation": 2, "test": 2})
    with pytest.raises(ValueError, match="the generated train split has SHA-256"):
        load_tracing()
