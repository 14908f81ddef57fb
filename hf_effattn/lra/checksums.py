"""What identifies the content of a split, whatever file or generator it came from."""

import hashlib

from datasets import Dataset


def content_checksum(split: Dataset) -> str:
    """SHA-256 over the texts and labels of a split, in their order."""
    digest = hashlib.sha256()
    columns = [split[name] for name in ("label", "text", "pair_text") if name in split.column_names]
    for row in zip(*columns, strict=True):
        digest.update("".join(f"{value}\0" for value in row).encode())
    return digest.hexdigest()
