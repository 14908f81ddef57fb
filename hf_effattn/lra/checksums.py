"""What identifies the content of a split, whatever file or generator it came from."""

import hashlib

from datasets import Dataset


def content_checksum(split: Dataset) -> str:
    """SHA-256 over the texts and labels of a split, in their order."""
    digest = hashlib.sha256()
    for text_, label in zip(split["text"], split["label"], strict=True):
        digest.update(f"{label}\0{text_}\0".encode())
    return digest.hexdigest()
