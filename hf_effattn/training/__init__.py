"""What the training scripts share: recipes, checkpoints to resume from, measurements and results."""

from ..extras import needs_extra


with needs_extra("train"):
    import accelerate  # noqa: F401 (so that what is missing is said here, whatever is imported from this room)
    import datasets  # noqa: F401
