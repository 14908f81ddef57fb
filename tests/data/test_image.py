"""Pictures: the original binary formats, written here byte by byte, and what is refused of them."""

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Picture
from transformers import AutoImageProcessor

from hf_effattn.lra import image
from hf_effattn.lra.task import TASKS


def cifar_batch(seed, rows=image.CIFAR_BATCH):
    """The bytes of a file of CIFAR-10, its labels, and its colours ``[rows, 32, 32, 3]``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, size=rows).astype(np.uint8)
    colours = rng.integers(0, 256, size=(rows, 32, 32, 3)).astype(np.uint8)
    planes = colours.transpose(0, 3, 1, 2).reshape(rows, -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes(), labels, colours


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    contents = {}
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        raw, labels, colours = cifar_batch(seed)
        (folder / f"{name}.bin").write_bytes(raw)
        contents[name] = (labels, colours)
    return folder, contents


def test_cifar_in_its_original_format(cifar):
    folder, contents = cifar
    splits = image.load_image(str(folder))
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 45_000,
        "validation": 5_000,
        "test": 10_000,
    }
    labels, colours = contents["data_batch_2"]
    row = splits["train"].with_format("numpy")[10_003]
    assert row["label"] == labels[3]
    assert row["image"].shape == (32, 32)
    assert splits["train"].features["image"].dtype == "uint8"
    assert np.array_equal(row["image"], image.grey(colours[3:4])[0])
    last = splits["validation"].with_format("numpy")[-1]
    assert last["label"] == contents["data_batch_5"][0][-1]
    assert splits["test"].features["label"].names == list(image.CIFAR_LABELS)


def test_grey_is_that_of_the_original_loader():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, size=(200, 32, 32, 3)).astype(np.uint8)
    # Of shares of 255, in double precision, where no product is on the edge of a whole number.
    exact = (colours / 255) @ np.array([0.2989, 0.587, 0.114]) * 255.5
    clear = np.abs(exact - np.round(exact)) > 1e-4
    assert clear.mean() > 0.99
    assert np.array_equal(image.grey(colours)[clear], np.floor(exact[clear]))
    plain = np.repeat(np.array([0, 1, 128, 254, 255], dtype=np.uint8)[:, None], 3, axis=1)[None, None]
    assert image.grey(plain).ravel().tolist() == [0, 1, 128, 254, 255], "0.9999 of it, of 255.5"


def test_a_batch_of_another_size_is_refused(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_batch(0, rows=3)[0])
    with pytest.raises(
        ValueError, match=r"data_batch_1\.bin has 9,219 bytes, which end in picture 3; a batch of CIFAR-"
    ):
        image.load_image(str(tmp_path))
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_batch(0)[0][:-1])
    with pytest.raises(ValueError, match=r"has 30,729,999 bytes, which end in picture 9,999; .* has 30,730,000\. Get"):
        image.load_image(str(tmp_path))


def test_a_missing_batch_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no data_batch_1\.bin"):
        image.load_image(str(tmp_path))


def test_a_label_outside_the_classes_is_refused(tmp_path):
    raw = bytearray(cifar_batch(0)[0])
    raw[2 * 3073] = 10
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="picture 2 has label 10, there are 10 classes"):
        image.read_cifar_batch(path)


def test_unknown_sources_are_refused():
    with pytest.raises(ValueError, match="unknown source 'nowhere'; choose 'hub'"):
        image.load_image("nowhere")
    with pytest.raises(ValueError, match="there is no folder nowhere; choose 'system'"):
        image.load_fashion_mnist("nowhere")


def test_the_hub_has_the_same_pictures_or_is_refused(monkeypatch):
    colours = np.random.default_rng(0).integers(0, 256, size=(4, 32, 32, 3)).astype(np.uint8)
    features = Features({"img": Image(), "label": Value("int64")})
    part = Dataset.from_dict({"img": list(colours), "label": [3, 1, 4, 1]}, features=features)
    monkeypatch.setattr(image, "load_dataset", lambda name: DatasetDict(train=part, test=part))
    with pytest.raises(ValueError, match=r"should hold .*50000, 'test': 10000. pictures, got .*'train': 4"):
        image.load_image("hub")
    monkeypatch.setattr(image, "CIFAR_SIZES", {"train": 4, "test": 4})
    monkeypatch.setattr(image, "VALIDATION_SHARE", 0.25)
    splits = image.load_image("hub")
    assert np.array_equal(splits["test"].with_format("numpy")[:]["image"], image.grey(colours))
    assert (splits["train"]["label"], splits["validation"]["label"]) == ([3, 1, 4], [1])


def write_idx(folder, name, array, compressed):
    raw = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def fashion(request, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, rows in (("train", 50), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, size=(rows, 28, 28)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, size=rows).astype(np.uint8)
    sums = {name: write_idx(tmp_path, name, array, request.param) for name, array in arrays.items()}
    monkeypatch.setattr(image, "FASHION_SHA256", sums)
    return tmp_path, arrays


def test_fashion_mnist_in_its_original_format(fashion):
    folder, arrays = fashion
    splits = image.load_fashion_mnist(str(folder))
    assert {name: len(split) for name, split in splits.items()} == {"train": 45, "validation": 5, "test": 20}
    row = splits["validation"].with_format("numpy")[1]
    assert np.array_equal(row["image"], arrays["train-images-idx3-ubyte"][46])
    assert row["label"] == arrays["train-labels-idx1-ubyte"][46]


def test_files_of_something_else_are_refused(fashion, monkeypatch):
    folder, _ = fashion
    monkeypatch.setitem(image.FASHION_SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.* that of Fashion-MNIST is 000"):
        image.load_fashion_mnist(str(folder))


def change(folder, name, function):
    """Write the content of a file anew, compressed or not."""
    path = next(path for path in (folder / name, folder / f"{name}.gz") if path.exists())
    raw = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
    path.write_bytes(gzip.compress(function(raw)) if path.suffix else function(raw))


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "train-images-idx3",
            lambda raw: raw[:-800],
            r"should hold 50 rows of 784 bytes, but its 38,400 .* in row 48;",
        ),
        (
            "train-images-idx3",
            lambda raw: raw + b"\0",
            r"should hold 50 rows of 784 bytes, but its 39,201 .* in row 50;",
        ),
        (
            "train-images-idx3",
            lambda raw: raw[:10],
            r"is not an idx file of bytes in 3 dimensions: it begins with b'\\x00",
        ),
        (
            "train-images-idx3",
            lambda raw: b"\x89PNG" + raw[4:],
            r"is not an idx file of bytes in 3 .*: it begins with b'\\x89PNG'",
        ),
        ("t10k-labels-idx1", lambda raw: raw[:2] + b"\x0b" + raw[3:], "is not an idx file of bytes in 1 dimensions"),
        ("t10k-labels-idx1", lambda raw: b"", "is not an idx file of bytes in 1 dimensions: it begins with b''"),
        ("t10k-labels-idx1", lambda raw: raw[:-1], r"should hold 20 rows of 1 bytes, but its 19 bytes end in row 19"),
        ("t10k-labels-idx1", lambda raw: raw[:-1] + b"\x0a", "picture 19 has label 10, there are 10 classes"),
        (
            "t10k-labels-idx1",
            lambda raw: raw[:4] + struct.pack(">i", 21) + raw[8:] + b"\1",
            r"t10k-images-idx3-ubyte.* has 20 pictures, but .*t10k-labels-idx1-ubyte.* has 21 labels",
        ),
        (
            "t10k-labels-idx1",
            lambda raw: raw[:-1] + bytes([(raw[-1] + 1) % 10]),
            "has SHA-256 .*, that of Fashion-MNIST",
        ),
    ],
)
def test_whatever_is_wrong_with_an_idx_file_it_is_named(fashion, name, function, message):
    folder, _ = fashion
    change(folder, f"{name}-ubyte", function)
    with pytest.raises(ValueError, match=message) as error:
        image.load_fashion_mnist(str(folder))
    assert f"{folder}/{name}-ubyte" in str(error.value)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        image.load_fashion_mnist(str(tmp_path))
    for contents in (b"no archive", gzip.compress(bytes(1000))[:-9], gzip.compress(bytes(1000))[:15] + bytes(30)):
        (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(contents)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is damaged \(.*; get the file anew"):
            image.load_fashion_mnist(str(tmp_path))


@pytest.mark.parametrize("longest", ["images-idx3", "labels-idx1"])
def test_no_more_is_unpacked_than_fashion_mnist_has(fashion, longest):
    """A few megabytes of gzip are gigabytes of zeros, and so is a hole in a plain file."""
    folder, _ = fashion
    size = {"images-idx3": 16 + 60_000 * 784, "labels-idx1": 8 + 60_000}[longest]
    path = next(folder.glob(f"train-{longest}*"))
    if path.suffix:
        # Members of a gzip file follow one another, so that this one is made of a small one, many times.
        megabytes = gzip.compress(bytes(2**24))
        path.write_bytes(megabytes * 200)
    else:
        with path.open("wb") as file:
            file.truncate(200 * 2**24)
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=f"train-{longest}-ubyte.* has more than {size:,} bytes, which is too long for"
    ):
        image.load_fashion_mnist(str(folder))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * (16 + 60_000 * 784) + 2**22, "the pictures are read first"


def test_a_declared_shape_that_is_huge_is_refused_without_room_for_it(fashion):
    folder, _ = fashion
    change(folder, "train-images-idx3-ubyte", lambda raw: raw[:4] + b"\xff" * 12 + raw[16:])
    with pytest.raises(
        ValueError, match=r"should hold 4,294,967,295 rows of 18,446,744,065,119,617,025 bytes, but its"
    ):
        image.load_fashion_mnist(str(folder))


def test_a_batch_that_is_huge_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "data_batch_1.bin").open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(np, "fromfile", lambda *args, **kwargs: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin has 1,099,511,627,776 bytes"):
        image.load_image(str(tmp_path))


def test_a_missing_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "FASHION_FOLDER", tmp_path / "none")
    with pytest.raises(ValueError, match="apt install dataset-fashion-mnist, or give the folder"):
        image.load_fashion_mnist("system")


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.pixels is not None])
def test_the_image_processor_gives_every_shade_as_in_training(name, tmp_path):
    task = TASKS[name]
    task.image_processor().save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    side = processor.size["height"]
    assert side == processor.size["width"] and side**2 + 1 == task.length
    shades = np.resize(np.arange(256, dtype=np.uint8), (side, side))
    pixels = processor(Picture.fromarray(shades).convert("RGB"), return_tensors="pt")["pixel_values"]
    wanted = task.collator(None)([{"image": shades, "label": 0}])["pixel_values"]
    # Each of three channels; where torchvision is installed, it rounds in another order.
    torch.testing.assert_close(pixels, wanted.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    assert task.for_plain_tokens().image_processor() is None
