"""Generated splits are compared with the checksums that their task records."""

from pathlib import Path

import datasets
from datasets import DatasetDict

from ..data.checksums import content_checksum


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
