"""What identifies the content of a split, whatever file or generator it came from."""

import hashlib
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict


def content_checksum(split: Dataset) -> str:
    """SHA-256 over the texts, pictures or tokens, and the labels of a split, in their order."""
    digest = hashlib.sha256()
    if "image" in split.column_names or "input_ids" in split.column_names:
        # The bytes of arrays do not depend on how a library prints them.
        for batch in split.with_format("numpy").iter(1000):
            for name in sorted(split.column_names):
                digest.update(np.ascontiguousarray(batch[name]).tobytes())
        return digest.hexdigest()
    columns = [split[name] for name in ("label", "text", "pair_text") if name in split.column_names]
    for row in zip(*columns, strict=True):
        digest.update("".join(f"{value}\0" for value in row).encode())
    return digest.hexdigest()


def verified(splits: DatasetDict, checksums: dict[str, str]) -> DatasetDict:
    """The generated splits themselves.

    Raises:
        ValueError: they are not those that the checksums identify.
    """
    for name, expected in checksums.items():
        if (found := content_checksum(splits[name])) != expected:
            folders = {str(Path(file["filename"]).parent) for file in splits[name].cache_files}
            folders = folders or {str(datasets.config.HF_DATASETS_CACHE)}
            raise ValueError(
                f"the generated {name} split has SHA-256 {found}, expected {expected}: the rows in the cache are "
                "damaged, or numpy's random numbers or the code that makes them have changed, so scores would not "
                f"compare. Install the numpy of constraints.txt, and delete {' and '.join(sorted(folders))}."
            )
    return splits
