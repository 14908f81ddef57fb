"""Long Range Arena tasks, one file each, and the table that finds them."""

from ..extras import needs_extra


with needs_extra("train"):
    from .task import TASKS, LraTask, get_task


__all__ = ["TASKS", "LraTask", "get_task"]
