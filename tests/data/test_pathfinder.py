"""Pathfinder: the course of the snakes, what a model could cheat by, and the official files."""

import itertools
import logging
import math
import os
import struct
import zlib

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from hf_effattn.data.checksums import content_checksum
from hf_effattn.lra import pathfinder
from hf_effattn.lra.pathfinder import generate_pathfinder, load_pathfinder, published
from hf_effattn.lra.pathfinder_drawing import Parameters, draw, ink, is_connected, lay_out, mark


#: Of 200 hard pictures: the first sign that the generator or numpy's random numbers have changed.
SMALL_CHECKSUM = "ada3a7ab651715e6f752bddb58703278056c991fffe56130c4cda94964095e42"
TRAIN, TEST = 2000, 1000


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """Pictures are drawn, and do not come from an earlier run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module", params=pathfinder.DIFFICULTIES)
def difficulty(request):
    return request.param


@pytest.fixture(scope="module")
def samples(difficulty):
    """Pictures with their labels, layouts and circles."""
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.arange(TRAIN + TEST) % 2)
    layouts = [lay_out(rng, published(difficulty=difficulty)) for _ in labels]
    markers = [mark(rng, layout, bool(label)) for layout, label in zip(layouts, labels, strict=True)]
    images = np.stack([draw(layout, pair) for layout, pair in zip(layouts, markers, strict=True)])
    return images, labels, layouts, markers


@pytest.fixture(scope="module", params=[(32, "easy"), (32, "intermediate"), (32, "hard"), (128, "hard")], ids=str)
def layouts(request):
    rng = np.random.default_rng(1)
    return [lay_out(rng, published(*request.param)) for _ in range(20)]


def test_snakes_have_the_published_lengths(layouts):
    for layout in layouts:
        parameters = layout.parameters
        assert [len(snake) for snake in layout.targets] == [parameters.contour_length] * 2
        assert {len(snake) for snake in layout.distractors} == {parameters.distractor_length}
        assert len(layout.distractors) <= parameters.distractors
    assert np.mean([len(layout.distractors) for layout in layouts]) > parameters.distractors / 2


def test_paddles_and_gaps_have_the_published_lengths(layouts):
    margins = layouts[0].parameters.margins
    for layout in layouts:
        for snake in layout.targets + layout.distractors:
            for paddle in snake:
                assert math.dist(paddle.tail, paddle.head) == pytest.approx(layout.parameters.paddle_length)
            gaps = [math.dist(one.head, other.tail) for one, other in itertools.pairwise(snake)]
            # Ends on whole pixels move each gap by up to a pixel or so.
            assert any(max(abs(gap - 2 * margin) for gap in gaps) < 1.5 for margin in margins), gaps


def test_snakes_bend_as_far_as_the_continuity_allows(layouts):
    continuity = layouts[0].parameters.continuity
    turns = []
    for layout in layouts:
        for snake in layout.targets:
            angles = [math.atan2(p.head[0] - p.tail[0], p.head[1] - p.tail[1]) for p in snake]
            turns += [abs(math.remainder(b - a, 2 * math.pi)) for a, b in itertools.pairwise(angles)]
    limit = math.pi / 2 / continuity
    assert limit / 2 < max(turns) < limit
    assert np.mean(turns) < limit / 2


def test_long_snakes_begin_in_the_middle(layouts):
    for layout in layouts:
        distance, size = layout.parameters.seed_distance, layout.parameters.size
        first, second = (snake[0].tail for snake in layout.targets)
        assert all(2 * distance <= place < size - 2 * distance for place in first)
        assert math.dist(first, second) == pytest.approx(distance, abs=1)


def test_no_two_snakes_touch(layouts):
    for layout in layouts:
        size = layout.parameters.size
        own = [ink([snake], size) > 0 for snake in layout.targets + layout.distractors]
        assert np.sum(own, axis=0).max() == 1
        inner = np.zeros((size, size), dtype=bool)
        inner[1:-1, 1:-1] = True
        assert not (np.any(own, axis=0) & ~inner).any(), "the padding is free"


def near(image, distance):
    """The pixels at most `distance` away from ink."""
    return ndimage.distance_transform_edt(image == 0) <= distance


def test_the_circles_are_joined_where_the_label_says_so(samples):
    _, labels, layouts, markers = samples
    for label, layout, (begin, end) in zip(labels[:300], layouts, markers, strict=False):
        snakes = [[snake] for snake in layout.targets if snake[0].anchor == begin]
        assert len(snakes) == 1
        alone = ink(snakes[0], 32)
        assert near(alone, 1)[end] == label, "the other circle is on the snake of the first, or not even beside it"
        parts, count = ndimage.label(near(alone, 1.5), structure=np.ones((3, 3)))
        assert count == 1, "the gaps of a snake are narrow enough to follow it"
        assert not label or parts[begin] == parts[end] > 0


def test_circles_are_at_the_ends(samples):
    images, labels, layouts, markers = samples
    for label, layout, pair in zip(labels, layouts, markers, strict=True):
        assert is_connected(layout, pair) == label
        assert pair[0] in [snake[0].anchor for snake in layout.targets]
        assert pair[1] in [snake[-1].anchor for snake in layout.targets]
    rows, columns = np.array(markers).transpose(2, 0, 1)
    centres = images[np.arange(len(images))[:, None], rows, columns]
    assert (centres > 180).all() and (images.max(axis=(1, 2)) == 255).all()
    with pytest.raises(ValueError, match=r"the circle at \(0, 0\) lies at 0 ends of snakes"):
        is_connected(layouts[0], ((0, 0), (1, 1)))


def test_both_labels_have_the_same_drawings():
    rng = np.random.default_rng(2)
    for _ in range(50):
        layout = lay_out(rng, published())
        pairs = [mark(np.random.default_rng(3), layout, connected) for connected in (False, True)]
        assert pairs[0][0] == pairs[1][0] and pairs[0][1] != pairs[1][1]
        different = np.argwhere(draw(layout, pairs[0]) != draw(layout, pairs[1]))
        ends = np.array([pairs[0][1], pairs[1][1]])
        assert np.linalg.norm(different[:, None] - ends, axis=-1).min(axis=1).max() < 3


def accuracy_of_a_threshold(values, labels):
    """That of the best threshold among the first `TRAIN` values, on the others."""
    thresholds = np.unique(values[:TRAIN])
    above = values[:TRAIN] > thresholds[:, None]
    scores = (above == labels[:TRAIN]).mean(axis=1)
    best = np.abs(scores - 0.5).argmax()
    return ((values[TRAIN:] > thresholds[best]) == (labels[TRAIN:] == (scores[best] > 0.5))).mean()


@pytest.mark.parametrize(
    "figure",
    [
        lambda images: images.sum(axis=(1, 2), dtype=np.int64),
        lambda images: (images == 0).sum(axis=(1, 2)),
        lambda images: (images > 200).sum(axis=(1, 2)),
    ],
    ids=["brightness", "dark pixels", "bright pixels"],
)
def test_no_figure_of_the_whole_picture_gives_the_label_away(samples, figure):
    images, labels, _, _ = samples
    assert accuracy_of_a_threshold(figure(images), labels) == pytest.approx(0.5, abs=0.04)


def test_single_pixels_do_not_give_the_label_away(samples):
    images, labels, _, _ = samples
    pixels = images.reshape(len(images), -1) / 255.0
    probe = LogisticRegression(C=0.01, max_iter=200).fit(pixels[:TRAIN], labels[:TRAIN])
    assert probe.score(pixels[TRAIN:], labels[TRAIN:]) == pytest.approx(0.5, abs=0.04)


def test_the_places_of_the_circles_give_some_of_the_label_away():
    rng = np.random.default_rng(5)
    labels = np.arange(3000) % 2
    places = [mark(rng, lay_out(rng, published()), connected=bool(label)) for label in labels]
    coordinates = np.array(places).reshape(len(places), 4)
    trees = RandomForestClassifier(100, min_samples_leaf=10, random_state=0)
    found = trees.fit(coordinates[:2250], labels[:2250]).score(coordinates[2250:], labels[2250:])
    assert found == pytest.approx(0.6, abs=0.04)


#: Short snakes keep their circles near to each other.
BY_DISTANCE = {"easy": 0.63, "intermediate": 0.53, "hard": 0.52}


def test_the_distance_of_the_circles_gives_little_of_the_label_away(samples, difficulty):
    _, labels, _, markers = samples
    bins = np.array([math.dist(*pair) // 3 for pair in markers]).astype(int)
    counts = np.array([np.bincount(bins[:TRAIN][labels[:TRAIN] == label], minlength=16) for label in (0, 1)])
    found = (counts.argmax(axis=0)[bins[TRAIN:]] == labels[TRAIN:]).mean()
    assert found == pytest.approx(BY_DISTANCE[difficulty], abs=0.04)


def test_splits_are_balanced_and_do_not_depend_on_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(pathfinder, "SHARD", 10)
    sizes = {"train": 45, "validation": 20, "test": 20}
    results = []
    for processes, seed in ((1, 0), (2, 0), (1, 1)):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"{processes} {seed}")
        results.append(generate_pathfinder(sizes, published(difficulty="easy"), seed=seed, num_proc=processes))
    one, two, other = results
    assert {name: len(split) for name, split in one.items()} == sizes
    assert {name: sum(split["label"]) for name, split in one.items()} == {"train": 22, "validation": 10, "test": 10}
    for name in sizes:
        assert one[name].to_dict() == two[name].to_dict()
    assert one["test"]["image"] != other["test"]["image"]
    assert one["test"]["image"] != one["validation"]["image"]
    images = np.concatenate([split.with_format("numpy")[:]["image"] for split in one.values()])
    assert images.shape == (85, 32, 32) and one["train"].features["image"].dtype == "uint8"
    assert len(np.unique(images, axis=0)) == 85
    assert one["train"].features["label"].names == ["unconnected", "connected"]


def test_pictures_are_always_the_same(fresh_cache):
    splits = generate_pathfinder({"train": 200}, published(), num_proc=1)
    assert content_checksum(splits["train"]) == SMALL_CHECKSUM


def test_other_pictures_than_those_of_the_benchmark_are_refused(fresh_cache, monkeypatch):
    monkeypatch.setattr(pathfinder, "SPLIT_SIZES", {"train": 4, "validation": 2, "test": 2})
    monkeypatch.setitem(pathfinder.CHECKSUMS, (32, "hard"), {"train": "0" * 64})
    assert len(load_pathfinder(difficulty="easy")["train"]) == 4, "which is not recorded"
    with pytest.raises(ValueError, match=r"the generated train split has SHA-256 .* so scores would not compare"):
        load_pathfinder()


def test_the_arenas_parameters():
    hard, long = published(), published(128)
    assert (hard.contour_length, hard.distractor_length, hard.distractors) == (14, 4, 5)
    assert (long.contour_length, long.distractor_length, long.distractors, long.margins) == (14, 4, 8, (2, 3))
    easy = published(difficulty="easy")
    assert (easy.contour_length, easy.distractor_length, easy.distractors) == (6, 2, 10)


def test_what_cannot_be_drawn_meets_a_clear_error(monkeypatch):
    with pytest.raises(ValueError, match=r"no pictures of size 32 and difficulty 'medium'; choose from"):
        load_pathfinder(difficulty="medium")
    with pytest.raises(ValueError, match="no pictures of size 64"):
        load_pathfinder(size=64)
    fields = {name: getattr(published(), name) for name in Parameters.__dataclass_fields__}
    with pytest.raises(ValueError, match="nothing is 16 pixels from the borders of 32 pixels"):
        Parameters(**fields | {"seed_distance": 8})
    with pytest.raises(ValueError, match=r"padding \(0\) must be at least 1"):
        Parameters(**fields | {"padding": 0})
    with pytest.raises(ValueError, match="at least two paddles"):
        Parameters(**fields | {"distractor_length": 1})
    monkeypatch.setattr("hf_effattn.lra.pathfinder_drawing.ATTEMPTS", 20)
    with pytest.raises(RuntimeError, match="20 times two long snakes found no room"):
        lay_out(np.random.default_rng(0), Parameters(**fields | {"contour_length": 40}))


def official_row(number, label, folder="imgs/0"):
    """A row of the official lists: folder, file, number, label, then parameters."""
    return [folder, f"sample_{number}.png", str(number), str(label), "1.0", "14", "4", "2", "0.5", "1", "1"]


def write_list(folder, number, rows):
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "metadata" / f"{number}.npy").write_text("".join(" ".join(row) + "\n" for row in rows))


def write_pictures(folder, count, size=32):
    """`count` random pictures as PNG files."""
    (folder / "imgs" / "0").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, size=(count, size, size)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "imgs" / "0" / f"sample_{number}.png")
    return images


def test_official_files_are_read_in_order(tmp_path, monkeypatch):
    folder = tmp_path / "pathfinder32" / "curv_contour_length_14"
    images = write_pictures(folder, 40)
    labels = np.arange(40) % 3 % 2
    rows = [official_row(number, label) for number, label in enumerate(labels)]
    write_list(folder, 0, rows[:20])
    write_list(folder, 10, rows[30:])
    # As the generator itself saves a list.
    np.save(folder / "metadata" / "2.npy", np.array(rows[20:30]))
    splits = load_pathfinder(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "validation": 4, "test": 4}
    assert [label for split in splits.values() for label in split["label"]] == labels.tolist()
    read = np.concatenate([split.with_format("numpy")[:]["image"] for split in splits.values()])
    assert np.array_equal(read, images) and splits["train"].features["image"].dtype == "uint8"
    inner = load_pathfinder(str(tmp_path / "pathfinder32"))
    assert inner["test"].to_dict() == splits["test"].to_dict()
    monkeypatch.setattr(pathfinder, "read_picture", None)
    assert load_pathfinder(str(tmp_path))["test"].to_dict() == splits["test"].to_dict(), "read once"
    path = folder / "imgs/0/sample_0.png"
    os.utime(path, ns=(0, 0))
    with pytest.raises(TypeError):
        load_pathfinder(str(tmp_path))
    with pytest.raises(ValueError, match=r"has no pathfinder32/curv_baseline and no curv_baseline"):
        load_pathfinder(str(tmp_path), difficulty="easy")
    with pytest.raises(ValueError, match="unknown source 'hub'"):
        load_pathfinder("hub")


def test_empty_and_damaged_pictures_are_counted_and_named(tmp_path, caplog):
    images = write_pictures(tmp_path, 400)
    rows = [official_row(number, number % 2) for number in range(400)]
    write_list(tmp_path, 0, rows)
    files = tmp_path / "imgs" / "0"
    (files / "sample_172.png").write_bytes(b"")
    (files / "sample_3.png").write_bytes((files / "sample_3.png").read_bytes()[:200])
    Image.fromarray(images[0, :16, :16]).save(files / "sample_4.png")
    with caplog.at_level(logging.WARNING):
        found = pathfinder.read_official(tmp_path, 32)
    rows = found.with_format("numpy")[:]
    assert np.array_equal(rows["image"], np.delete(images, [3, 4, 172], axis=0))
    assert np.array_equal(rows["label"], np.delete(np.arange(400) % 2, [3, 4, 172]))
    assert f"{tmp_path}/metadata/0.npy:4: " in caplog.text
    assert f"{tmp_path}/metadata/0.npy:5: {files}/sample_4.png has 16 x 16 pixels, expected 32 x 32" in caplog.text
    assert f"{tmp_path}/metadata/0.npy:173: {files}/sample_172.png is not a picture" in caplog.text
    assert "3 of 400 rows are broken: " in caplog.text and "sample_3.png is not a picture" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pathfinder.read_official(tmp_path, 32)
    assert "3 of 400 rows are broken: " in caplog.text, "what comes from the cache lacks them as well"
    for number in (5, 6):
        (files / f"sample_{number}.png").unlink()
    with pytest.raises(ValueError, match=r"5 of 400 rows are broken: .*metadata/0\.npy:4: .*:5: .*:6: .*No such file"):
        pathfinder.read_official(tmp_path, 32)


def unread(folder, contents):
    """The message about a picture that has these bytes."""
    path = folder / "picture.png"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=f"{path}") as error:
        pathfinder.read_picture(path, 32)
    return str(error.value)


def test_whatever_is_wrong_with_a_picture_its_file_is_named(tmp_path):
    (tmp_path / "imgs" / "0").mkdir(parents=True)
    write = tmp_path / "whole.png"
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(write)
    whole = write.read_bytes()
    for end in (0, 5, 20, 60, len(whole) // 2):
        assert "is not a picture" in unread(tmp_path, whole[:end])
    assert "is not a picture" in unread(tmp_path, b"<html>404</html>")
    assert "is not a picture" in unread(tmp_path, whole[:50] + bytes(20) + whole[70:])
    # A header, with its check sum, that asks for 2.5 thousand million pixels.
    header = b"IHDR" + struct.pack(">2I5B", 50_000, 50_000, 8, 0, 0, 0, 0)
    huge = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    assert "is not a picture: Image size (2500000000 pixels) exceeds limit" in unread(tmp_path, huge)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"has no rows; its lists are metadata/\*\.npy"),
        ([official_row(0, 0), official_row(1, 2)], r"0\.npy:2: the label is 2, neither 0 nor 1"),
        ([["imgs/0", "sample_0.png"]], r"0\.npy:1: no folder, file and label in 'imgs/0 sample_0\.png'"),
        ([official_row(0, "yes")], r"0\.npy:1: no folder, file and label"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, rows, message):
    write_pictures(tmp_path, 2)
    write_list(tmp_path, 0, rows)
    with pytest.raises(ValueError, match=message):
        pathfinder.read_official(tmp_path, 32)


def test_what_is_no_list_or_no_three_splits_is_refused(tmp_path):
    write_pictures(tmp_path, 2)
    write_list(tmp_path, 0, [official_row(0, 0), official_row(1, 1)])
    with pytest.raises(ValueError, match="2 pictures are too few for three splits"):
        pathfinder.split_official(pathfinder.read_official(tmp_path, 32))
    np.save(tmp_path / "metadata" / "1.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"metadata/1\.npy is not a list of pictures"):
        pathfinder.read_official(tmp_path, 32)


OUTSIDE = [
    (["..", "picture.png"], "../picture.png"),
    (["imgs/0", "../../../picture.png"], "imgs/0/../../../picture.png"),
    (["imgs/0", "/etc/picture.png"], "/etc/picture.png"),
    (["/etc", "picture.png"], "/etc/picture.png"),
]


@pytest.mark.parametrize(("names", "path"), OUTSIDE)
@pytest.mark.parametrize("as_array", [False, True])
def test_pictures_lie_inside_of_their_folder(tmp_path, fresh_cache, names, path, as_array):
    row = [*names, *official_row(0, 1)[2:]]
    write_list(tmp_path, 0, [official_row(0, 0)])
    if as_array:
        np.save(tmp_path / "metadata/1.npy", np.array([row]))
    else:
        write_list(tmp_path, 1, [row])
    with pytest.raises(
        ValueError, match=rf"metadata/1\.npy:1: the picture '{path}' lies outside of .*; get the lists"
    ):
        pathfinder.read_official(tmp_path, 32)


def lists(header, content=b"", version=(1, 0)):
    """The bytes of a file of numpy with any header."""
    text = str(header).encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + content


def described(kind, shape):
    return {"descr": kind, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            lists(described("<U20", (10**12, 13))),
            r"an array of <U20 of shape \(1000000000000, 13\) has 1,040,000,000,0",
        ),
        (lists(described("<U400000000", (1,))), "has 1,600,000,000 bytes, but 0 follow"),
        (lists(described("<U20", (2**62, 2**62))), "bytes, but 0 follow"),
        (lists(described("<U0", (2**60,))), "has 0 bytes, but 0 follow"),
        (lists(described("<U20", (2**60, 0))), "has 0 bytes, but 0 follow"),
        (lists(described("<U1", (2, 4)), bytes(31)), "has 32 bytes, but 31 follow"),
        (lists(described("<U1", (-1, 4)), bytes(32)), "has -16 bytes, but 32 follow"),
        (lists(described("|O", (10**12,))), "allow_pickle=False"),
        (lists("{'descr'"), ""),
        (lists("(" * 100), ""),
        (lists(described("<U1", (1,)), version=(9, 0)), r"version \(9, 0\)"),
        (b"\x93NUMPY", ""),
    ],
)
def test_what_a_list_declares_is_compared_with_what_follows(tmp_path, raw, message):
    path = tmp_path / "0.npy"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"0\.npy is not a list of pictures: .*{message}"):
        pathfinder.read_list(path)


def test_lists_of_every_form_are_read(tmp_path):
    rows = [official_row(0, 0), official_row(1, 1)]
    np.save(tmp_path / "0.npy", np.array(rows))
    assert pathfinder.read_list(tmp_path / "0.npy") == rows
    np.save(tmp_path / "0.npy", np.array([], dtype="<U1"))
    assert pathfinder.read_list(tmp_path / "0.npy") == []


def test_a_list_that_is_huge_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pathfinder, "MAX_LIST", 1000)
    (tmp_path / "0.npy").write_bytes(bytes(1001))
    with pytest.raises(ValueError, match=r"0\.npy has more than 1,000 bytes"):
        pathfinder.read_list(tmp_path / "0.npy")


@pytest.mark.parametrize("form", ["EPS", "GIF", "TIFF"])
def test_a_picture_is_read_as_what_it_is_called(tmp_path, form):
    Image.new("L", (32, 32)).save(tmp_path / "picture.png", form)
    with pytest.raises(ValueError, match=r"picture\.png is not a picture: cannot identify image file"):
        pathfinder.read_picture(tmp_path / "picture.png", 32)
