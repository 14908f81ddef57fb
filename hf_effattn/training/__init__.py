"""Training runs: arguments, set-up, trainers, checkpoints to resume from, and typed results."""

from ..extras import needs_extra


with needs_extra("train"):
    import accelerate  # noqa: F401 (so that what is missing is said here, whatever is imported from this room)
    import datasets  # noqa: F401
