"""Users' own data: files or a data set, as checked splits with columns of fixed names."""

import csv
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pyarrow.compute
from datasets import Dataset, DatasetDict, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.utils.extract import Extractor

from ..data.checked_cache import checked
from .arguments import RunArguments, argument


logger = logging.getLogger(__name__)

#: The builder of `datasets` for each kind of file.
KINDS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}

#: Options of a builder. In csv files an empty cell is an empty text, and NA and None are words.
BUILDER_OPTIONS: dict[str, dict[str, Any]] = {"csv": {"keep_default_na": False}}

#: Split -> the field of `DataArguments` that names its file.
FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}


@dataclasses.dataclass
class DataArguments:
    """Where the data is."""

    train_file: str | None = argument(f"file to train on, one of {', '.join(KINDS)}; json is one object a line")
    validation_file: str | None = argument("file to choose the best weights with; else a share of the training rows")
    test_file: str | None = argument("file to score the best weights on, once")
    dataset: str | None = argument("instead of files: a name for datasets.load_dataset, or what save_to_disk wrote")
    dataset_config: str | None = argument("configuration of the dataset, if it has several")
    text_column: str = argument("column of the texts", "text")
    validation_share: float = argument("share of the training rows to set aside if there is no validation split", 0.1)
    split_seed: int = argument("seed of the choice of these rows", 0)

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset is None):
            raise ValueError("give exactly one of --train_file and --dataset")
        for name in ("validation_file", "test_file"):
            if self.train_file is None and getattr(self, name) is not None:
                raise ValueError(f"--{name} goes with --train_file; a --dataset brings its own splits")
        if self.dataset is None and self.dataset_config is not None:
            raise ValueError("--dataset_config goes with --dataset")
        kinds = {Path(path).suffix for name in FILES.values() if (path := getattr(self, name)) is not None}
        if ".txt" in kinds and len(kinds) > 1:
            raise ValueError(f"plain text has no columns and goes with no other kind of file, got {sorted(kinds)}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"--validation_share must lie between 0 and 1, got {self.validation_share}")


@dataclasses.dataclass
class UserRunArguments(RunArguments, DataArguments):
    """What to train on which data of the user's own."""

    tokenizer: str | None = argument("folder of a tokenizer; else the checkpoint's, or bytes for a new model")

    def __post_init__(self) -> None:
        DataArguments.__post_init__(self)
        super().__post_init__()


def load_splits(data: DataArguments, columns: dict[str, str], running_text: bool = False) -> DatasetDict:
    """The splits ``train`` and ``validation``, and ``test`` if there is one.

    Args:
        data: where they are.
        columns: name that the data has -> name that the column gets. Other columns are left out.
        running_text: whether the lines of a ``.txt`` file are one text, whose line breaks count. Its last lines are
            then the ones that are set aside for validation; of other data it is rows drawn with `data.split_seed`.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: a kind of file that is not read, a split or column that is missing, or an empty split.
    """
    if data.train_file is not None:
        paths = {split: getattr(data, name) for split, name in FILES.items()}
        found = {split: _load_file(path, running_text) for split, path in paths.items() if path is not None}
    else:
        found = _load_dataset(data)
    splits = DatasetDict({name: _with_columns(split, columns, name) for name, split in found.items()})
    if "validation" not in splits:
        splits = _set_aside(splits, data, is_running(data, running_text))
    return splits


def is_running(data: DataArguments, running_text: bool) -> bool:
    """Whether the rows are the lines of one text: those of a ``.txt`` file, if `running_text` is set."""
    return running_text and data.train_file is not None and Path(data.train_file).suffix == ".txt"


def check_texts(splits: DatasetDict, column: str) -> None:
    """Raise ValueError if `column` holds anything but texts."""
    for name, split in splits.items():
        if not isinstance(kind := split.features[column], Value) or kind.dtype not in ("string", "large_string"):
            raise ValueError(
                f"the texts of the {name} split, column {column!r}, are {_described(kind)}, not strings: name the "
                "column of the texts, or store it as strings (a csv file has no types; json lines and parquet have)"
            )
        start = 0
        for batch in split.select_columns([column]).with_format("arrow").iter(10_000):
            missing = pyarrow.compute.is_null(batch[column])
            if (row := pyarrow.compute.index(missing, True).as_py()) >= 0:
                raise ValueError(f"row {start + row} of the {name} split has no text: remove it, or make it ''")
            start += len(missing)


def _described(kind: Any) -> str:
    return kind.dtype if isinstance(kind, Value) else type(kind).__name__


def _load_file(path: str, running_text: bool) -> Dataset:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = KINDS.get(Path(path).suffix)
    if kind is None:
        raise ValueError(f"{path} is none of the kinds {sorted(KINDS)}: convert it, or give it its suffix")
    options = {"keep_linebreaks": running_text} if kind == "text" else BUILDER_OPTIONS.get(kind, {})
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{path} is empty: give another file, or leave it out")
    # `datasets` would unpack it whatever its name, to an unknown size.
    if packed := Extractor.infer_extractor_format(path):
        raise ValueError(f"{path} is packed ({packed}) and not {kind}: unpack it")
    if kind == "csv":
        _check_width(path)

    def load(anew: bool) -> Dataset:
        mode = "force_redownload" if anew else None
        return load_dataset(kind, data_files=str(path), split="train", download_mode=mode, **options)

    try:
        return checked(load)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{path} has no rows or is no {kind}: {error.__cause__ or error}") from error


def _check_width(path: str) -> None:
    """Raise ValueError if a csv file has more cells in its first row than in its header.

    pandas would take the first cells of all rows for names of rows, and the others for those of the columns before.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        try:
            header, first = next(rows, []), next(rows, [])
        except (csv.Error, UnicodeDecodeError):
            return
    if len(first) > len(header):
        raise ValueError(
            f"{path}: the first row has {len(first)} cells, and the header {len(header)}: name every column, or put "
            "texts with commas in quotes"
        )


def _load_dataset(data: DataArguments) -> dict[str, Dataset]:
    path = Path(str(data.dataset))
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        found = load_from_disk(str(path))
    else:
        found = load_dataset(str(data.dataset), data.dataset_config)
    splits = {"train": found} if isinstance(found, Dataset) else dict(found)
    if "train" not in splits:
        raise ValueError(f"{data.dataset} has the splits {sorted(splits)} and none called train: rename one")
    if unused := splits.keys() - FILES.keys():
        logger.warning("the splits %s of %s are not used", sorted(unused), data.dataset)
    return {name: splits[name] for name in FILES if name in splits}


def _with_columns(split: Dataset, columns: dict[str, str], name: str) -> Dataset:
    if missing := columns.keys() - set(split.column_names):
        raise ValueError(
            f"the {name} split has no column {sorted(missing)}, its columns are {split.column_names}: say which to "
            "read with --text_column and its like"
        )
    if len(split) == 0:
        raise ValueError(f"the {name} split has no rows: give another file, or leave it out")
    chosen = split.select_columns(list(columns))
    return chosen.rename_columns({old: new for old, new in columns.items() if old != new})


def _set_aside(splits: DatasetDict, data: DataArguments, last: bool) -> DatasetDict:
    """The splits with a share of the training rows, the `last` ones or random ones, as validation split."""
    train = splits["train"]
    rows = round(data.validation_share * len(train))
    if not 0 < rows < len(train):
        raise ValueError(
            f"--validation_share {data.validation_share} of {len(train)} training rows leaves one split empty: "
            "give more rows, another share, or --validation_file"
        )
    seed = None if last else data.split_seed
    # `datasets` would take the choice of the rows from its cache, by its name.
    parts = train.train_test_split(test_size=rows, shuffle=not last, seed=seed, load_from_cache_file=False)
    logger.info("%d of %d training rows are set aside for validation", rows, len(train))
    return DatasetDict({**splits, "train": parts["train"], "validation": parts["test"]})
