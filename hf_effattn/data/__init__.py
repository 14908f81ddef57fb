"""Rows of any data set: tokens, batches, checksums and checked caches; for the tasks and for users' own data."""

from ..extras import needs_extra


with needs_extra("train"):
    import datasets  # noqa: F401 (so that what is missing is said here, whatever is imported from this room)
