"""Names of classes, found in the labels of a user's own data."""

from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..data.checked_cache import checked_map


def class_names(splits: DatasetDict, column: str) -> list[str]:
    """The names of the classes in the order of their ids: those of a `ClassLabel`, or the training labels, sorted.

    Raises:
        ValueError: a row without label, labels that are neither strings nor whole numbers, labels of another split
            that the training rows do not have, or a single label.
    """
    train, seen = splits["train"], list(_names(splits["train"], column, "train").values())
    for name in splits.keys() - {"train"}:
        if unknown := set(_names(splits[name], column, name).values()) - set(seen):
            raise ValueError(
                f"the {name} split has the labels {sorted(unknown)}, which no training row has: add rows with them to "
                "the training split, or remove theirs"
            )
    kind = train.features[column]
    names = list(kind.names) if isinstance(kind, ClassLabel) else seen
    # transformers would take a single class for a number to predict.
    if len(names) < 2:
        raise ValueError(f"the training rows have one label alone, {names[0]!r}: a classifier needs two")
    return names


def with_class_ids(splits: DatasetDict, column: str, names: list[str]) -> DatasetDict:
    """The splits with the ids of the classes, which are the places of their names, in `column`."""
    ids = {name: i for i, name in enumerate(names)}

    def numbered(split: Dataset, name: str) -> Dataset:
        found = {value: ids[text] for value, text in _names(split, column, name).items()}
        # Left to itself, `map` keeps the type of a column, and numbers become strings.
        features = Features({**split.features, column: Value("int64")})

        def number(batch: dict[str, Any]) -> dict[str, Any]:
            return {column: [found[value] for value in batch[column]]}

        return checked_map(split, number, batched=True, features=features)

    return DatasetDict({name: numbered(split, name) for name, split in splits.items()})


def _names(split: Dataset, column: str, name: str) -> dict[str | int, str]:
    """The labels that occur in a split, in order, and what they are called."""
    kind = split.features[column]
    countable = isinstance(kind, Value) and (kind.dtype in ("string", "large_string", "bool") or "int" in kind.dtype)
    if not (countable or isinstance(kind, ClassLabel)):
        found = kind.dtype if isinstance(kind, Value) else type(kind).__name__
        raise ValueError(
            f"the labels of the {name} split, column {column!r}, are {found}: name another --label_column, or store "
            "them as strings or whole numbers"
        )
    values = split.unique(column)
    if None in values or "" in values or (isinstance(kind, ClassLabel) and -1 in values):
        raise ValueError(f"the {name} split has rows without label (None, '' or -1): label them, or leave them out")
    if isinstance(kind, ClassLabel):
        return {value: kind.int2str(value) for value in sorted(values)}
    return {value: str(value) for value in sorted(values)}
