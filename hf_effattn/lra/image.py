"""The image tasks: pictures read pixel by pixel, in raster order.

`image` is Long Range Arena's (Tay et al. 2020, arXiv 2011.04006): CIFAR-10 in grey, 32 x 32 pixels, ten classes, the
first 45,000 training pictures for training, the last 5,000 for validation, and the official test set of 10,000. Grey
is ``0.2989 R + 0.587 G + 0.114 B``, rounded as in the original loader. Sources: ``"hub"`` (``uoft-cs/cifar10``), or
the folder with the original binary files (``data_batch_1.bin`` … ``test_batch.bin``).

`fashion_mnist` (Xiao et al. 2017, arXiv 1708.07747) is not a task of Long Range Arena. It is a real task of 784 pixels
that needs no network: 54,000 / 6,000 / 10,000 pictures, ten classes. Sources: ``"system"``, the idx files that the
Debian package dataset-fashion-mnist installs, or a folder with these files, compressed or not.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, load_dataset

from .official_files import read_at_most


CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_SOURCES = ("hub",)
FASHION_LABELS = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
FASHION_SOURCES = ("system",)
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")

#: The number of pictures in each part of Fashion-MNIST, and the number of pixels in a picture.
FASHION_SIZES, FASHION_PIXELS = {"train": 60_000, "t10k": 10_000}, 28**2

#: SHA-256 of the uncompressed idx files of Fashion-MNIST.
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

#: Weights of red, green and blue in the grey of a pixel.
LUMA = (0.2989, 0.587, 0.114)
CIFAR_SIDE, CIFAR_BATCH = 32, 10_000
CIFAR_SIZES = {"train": 50_000, "test": 10_000}
VALIDATION_SHARE = 0.1


def load_image(source: str = "hub") -> DatasetDict:
    """Load grey CIFAR-10: the splits ``train``, ``validation`` and ``test`` with the columns ``image`` and ``label``.

    Raises:
        ValueError: the source is neither ``"hub"`` nor a folder, or a file is missing or damaged.
    """
    if source == "hub":
        return grey_hub(load_dataset("uoft-cs/cifar10"))
    if not Path(source).is_dir():
        raise ValueError(f"unknown source {source!r}; choose 'hub', or the folder with CIFAR-10's *_batch*.bin files")
    parts = [read_cifar_batch(Path(source) / f"data_batch_{number}.bin") for number in range(1, 6)]
    images, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return split_pictures((images, labels), read_cifar_batch(Path(source) / "test_batch.bin"), CIFAR_LABELS)


def grey_hub(cifar: DatasetDict) -> DatasetDict:
    """Make the splits from the data set of the Hub.

    Raises:
        ValueError: the data set does not have the 50,000 + 10,000 pictures of CIFAR-10.
    """
    sizes = {name: len(cifar[name]) for name in CIFAR_SIZES}
    if sizes != CIFAR_SIZES:
        raise ValueError(f"CIFAR-10 should hold {CIFAR_SIZES} pictures, got {sizes}")
    columns = {}
    for name in CIFAR_SIZES:
        colours = np.stack([np.asarray(picture) for picture in cifar[name]["img"]])
        columns[name] = grey(colours), np.asarray(cifar[name]["label"])
    return split_pictures(columns["train"], columns["test"], CIFAR_LABELS)


def read_cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read grey pictures ``[10000, 32, 32]`` and their labels from one of the original files.

    A row holds one byte for the label, then 1,024 bytes each for red, green and blue.

    Raises:
        ValueError: the file is missing or has another size, or a label is not the id of a class.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    row, size = 1 + 3 * CIFAR_SIDE**2, path.stat().st_size
    if size != CIFAR_BATCH * row:
        raise ValueError(
            f"{path} has {size:,} bytes, which end in picture {size // row:,}; a batch of CIFAR-10 has "
            f"{CIFAR_BATCH * row:,}. Get the file anew"
        )
    rows = np.fromfile(path, dtype=np.uint8).reshape(CIFAR_BATCH, row)
    labels = rows[:, 0].astype(np.int64)
    check_labels(labels, len(CIFAR_LABELS), path)
    return grey(rows[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)), labels


def grey(colours: np.ndarray) -> np.ndarray:
    """Turn coloured pictures ``[n, height, width, 3]`` into grey ones, ``[n, height, width]`` in unsigned bytes.

    This is TensorFlow's ``rgb_to_grayscale``, which the loader of Long Range Arena calls: it divides bytes by 255,
    takes the weighted sum, multiplies it by 255.5, and drops the fraction.
    """
    shares = colours.astype(np.float32) * np.float32(1 / 255)
    return (shares @ np.array(LUMA, dtype=np.float32) * np.float32(255.5)).astype(np.uint8)


def load_fashion_mnist(source: str = "system") -> DatasetDict:
    """Load Fashion-MNIST: the splits ``train``, ``validation`` and ``test`` with the columns ``image`` and ``label``.

    Raises:
        ValueError: the source is unknown, a file is missing, or a file does not belong to Fashion-MNIST.
    """
    folder = FASHION_FOLDER if source == "system" else Path(source)
    if not folder.is_dir():
        remedy = "apt install dataset-fashion-mnist, or give" if source == "system" else "choose 'system', or"
        raise ValueError(f"there is no folder {folder}; {remedy} the folder with the idx files of Fashion-MNIST")
    return split_pictures(read_fashion(folder, "train"), read_fashion(folder, "t10k"), FASHION_LABELS)


def read_fashion(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the pictures ``[n, 28, 28]`` and the labels of one part, ``"train"`` or ``"t10k"``.

    Raises:
        ValueError: a file is missing, damaged or not a file of Fashion-MNIST; the numbers of labels and pictures
            differ; or a label is not the id of a class.
    """
    pictures = FASHION_SIZES[part]
    files = [
        read_file(folder, f"{part}-images-idx3-ubyte", 16 + pictures * FASHION_PIXELS),
        read_file(folder, f"{part}-labels-idx1-ubyte", 8 + pictures),
    ]
    images, labels = (read_idx(raw, path, dimensions) for (path, raw), dimensions in zip(files, (3, 1), strict=True))
    if len(images) != len(labels):
        raise ValueError(f"{files[0][0]} has {len(images):,} pictures, but {files[1][0]} has {len(labels):,} labels")
    check_labels(labels, len(FASHION_LABELS), files[1][0])
    for path, raw in files:
        expected, found = FASHION_SHA256[path.name.removesuffix(".gz")], hashlib.sha256(raw).hexdigest()
        if found != expected:
            raise ValueError(f"{path} has SHA-256 {found}, that of Fashion-MNIST is {expected}")
    return images, labels.astype(np.int64)


def read_file(folder: Path, name: str, longest: int) -> tuple[Path, bytes]:
    """Find the file `name` or ``<name>.gz``, and return its path and its content of at most `longest` bytes.

    Raises:
        ValueError: the file is missing, damaged or longer.
    """
    path = next((folder / file for file in (name, f"{name}.gz") if (folder / file).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has neither {name} nor {name}.gz")
    return path, read_at_most(path, longest)


def read_idx(raw: bytes, path: Path, dimensions: int) -> np.ndarray:
    """Return the array of unsigned bytes in an idx file.

    The file begins with two zero bytes, then 8 for unsigned bytes, the number of dimensions, and the dimensions as
    32-bit numbers with the most significant byte first.

    Raises:
        ValueError: the file does not begin like that, or the number of its bytes is another one than it says.
    """
    begin = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) < begin:
        raise ValueError(f"{path} is not an idx file of bytes in {dimensions} dimensions: it begins with {raw[:4]!r}")
    shape = [int(size) for size in np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4)]
    row, size = math.prod(shape[1:]), len(raw) - begin
    if size != shape[0] * row:
        raise ValueError(
            f"{path} should hold {shape[0]:,} rows of {row:,} bytes, but its {size:,} bytes end in row "
            f"{size // max(row, 1):,}; get the file anew"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=begin).reshape(shape)


def check_labels(labels: np.ndarray, classes: int, path: Path) -> None:
    """Raise ValueError and name the first wrong label if a label is not the id of a class."""
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise ValueError(f"{path}: picture {wrong[0]} has label {labels[wrong[0]]}, there are {classes} classes")


def split_pictures(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], labels: tuple[str, ...]
) -> DatasetDict:
    """Make the splits; the last `VALIDATION_SHARE` of the training pictures become the validation split."""
    held_out = len(train[0]) - round(VALIDATION_SHARE * len(train[0]))
    parts = {
        "train": tuple(column[:held_out] for column in train),
        "validation": tuple(column[held_out:] for column in train),
        "test": test,
    }
    return DatasetDict({name: pictures(images, targets, labels) for name, (images, targets) in parts.items()})


def pictures(images: np.ndarray, targets: np.ndarray, labels: tuple[str, ...]) -> Dataset:
    """Make a split from grey pictures ``[n, height, width]`` in unsigned bytes."""
    features = Features({"image": Array2D(images.shape[1:], "uint8"), "label": ClassLabel(names=list(labels))})
    return Dataset.from_dict({"image": images, "label": targets}, features=features)
