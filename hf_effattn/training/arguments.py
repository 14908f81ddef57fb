"""The arguments that every training script has."""

import dataclasses
from typing import Any


def argument(text: str, default: Any = None) -> Any:
    """A field of a script's arguments, with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass
class RunArguments:
    """Where a model starts, how long its inputs are, and whether a run is resumed."""

    model_config: str | None = argument("config of a new model: a file, or a preset such as simpletron/tiny")
    model_name_or_path: str | None = argument("checkpoint to start from")
    max_length: int = argument("longest input in tokens, special ones included", 1024)
    resume: bool = argument("go on from the last whole checkpoint", False)

    def starts(self) -> dict[str, str | None]:
        """The arguments that say where a model starts, by name; a run gives exactly one."""
        return {name: getattr(self, name) for name in ("model_config", "model_name_or_path")}

    def __post_init__(self) -> None:
        starts = self.starts()
        if sum(value is not None for value in starts.values()) != 1:
            *others, last = (f"--{name}" for name in starts)
            raise ValueError(f"give exactly one of {', '.join(others)} and {last}")
