"""Rows of any data set: tokens, batches, checksums and checked caches; for the tasks and for users' own data."""
