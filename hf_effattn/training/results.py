"""The results of a training run: ``results.json`` as a typed object with a version."""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

from ..files import read_json, write_json


#: The version of the form of ``results.json`` that is written here. Files from before there were versions have the
#: form of version 1.
SCHEMA_VERSION = 1

#: The name of the file in the output folder of a run.
RESULTS = "results.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitData:
    """What a split held: its number of rows, and the SHA-256 of their content."""

    rows: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run ran on: versions, machine, and torch's threads per process."""

    python: str
    platform: str
    device: str
    cpu_count: int | None
    torch_threads: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedSetup:
    """What follows from the arguments of a run together with its files and its launcher.

    Attributes:
        model_config: the config of the model.
        data: the splits as they were loaded, by name.
        processes: how many trained together.
        mixed_precision: as Accelerate names it.
    """

    model_config: dict[str, Any]
    data: dict[str, SplitData]
    processes: int
    mixed_precision: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The scores and costs of a run, and what they were measured on.

    Attributes:
        parameters: how many the model has.
        steps: optimizer steps that were made.
        peak_memory_bytes: the most memory that the process held, on the GPU if there was one.
        tokens_per_second: tokens without padding per second of training steps, if it was measured.
        test: scores on the test split, with the prefix ``test_``, if there was one.
        model_config: the config of the model after training.
        data: the splits as they were loaded, by name.
        environment: versions and machine.
    """

    parameters: int
    steps: int
    peak_memory_bytes: int
    tokens_per_second: float | None = None
    test: dict[str, float] | None = None
    model_config: dict[str, Any]
    data: dict[str, SplitData]
    environment: Environment

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The object that `to_dict` made `content` of. Entries that are not known here are left out.

        Raises:
            ValueError: an entry is missing or of another type, or the file has a newer schema.
        """
        _check_version(content)
        found: Self = _decode(cls, content, ())
        return found

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What a file holds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, lacks an entry, or has a newer schema; the message names the file.
        """
        content = read_json(path)
        try:
            return cls.from_dict(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of the file; optional entries without a value are left out."""
        optional = {field.name for field in dataclasses.fields(self) if field.default is None}
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if value is not None or name not in optional}

    def accuracy(self) -> tuple[float, float, float]:
        """Test accuracy, and the lower and the upper end of its interval.

        Raises:
            ValueError: the run measured none.
        """
        low, high = (require(self.test, "test", f"test_accuracy_{end}") for end in ("low", "high"))
        return require(self.test, "test", "test_accuracy"), low, high


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResults(RunSummary):
    """Everything that a run leaves beside its model, and that is needed to repeat it.

    Attributes:
        arguments: those of the script.
        training_arguments: those of `Trainer`, or those of them that the loop reads.
        processes: how many trained together.
        mixed_precision: as Accelerate names it.
        backends: what ``effattn_report()`` of the model says; None for models of transformers.
        code: SHA-256 of the package's files, in results since it is recorded.
        best_step: the step whose weights are left, or None if they are the last ones.
        log: the entries of the training log.
        validation_accuracy: that of the weights that are left, on a task of Long Range Arena.
        validation: scores on the validation split, with the prefix ``eval_``, on data of the user's own.
        weights: SHA-256 of the files of weights, by name, once they are written.
        schema_version: see `SCHEMA_VERSION`.
    """

    arguments: dict[str, Any]
    training_arguments: dict[str, Any]
    processes: int
    mixed_precision: str
    backends: dict[str, Any] | None
    code: str | None = None
    best_step: int | None
    log: list[dict[str, Any]]
    validation_accuracy: float | None = None
    validation: dict[str, float] | None = None
    weights: dict[str, str] | None = None
    schema_version: int = SCHEMA_VERSION

    def save(self, folder: Path) -> None:
        """Write ``results.json`` into a folder, whole or not at all."""
        write_json(folder / RESULTS, self.to_dict())

    def summary(self) -> RunSummary:
        """The part that tables show."""
        return RunSummary(**{field.name: getattr(self, field.name) for field in dataclasses.fields(RunSummary)})


def require(value: Any, name: str, *path: str) -> Any:
    """The entry ``value[path[0]][path[1]]…`` of the entry `name` of results.

    Raises:
        ValueError: it is missing, or null.
    """
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        raise ValueError(_lacking((name, *path)))
    return value


def _lacking(path: tuple[str, ...]) -> str:
    return f"the results lack {'.'.join(path)}; write them with training_scripts/run_lra.py"


def _check_version(content: Any) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"the results are a {type(content).__name__}, and must be a mapping")
    version = content.get("schema_version", SCHEMA_VERSION)
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ValueError(
            f"the results have schema_version {version!r}, and this version of hf_effattn reads them up to "
            f"{SCHEMA_VERSION}: install the version that wrote them, or a newer one"
        )


def _decode(kind: Any, value: Any, path: tuple[str, ...]) -> Any:
    """`value`, as JSON has it, as an object of the type `kind`.

    Raises:
        ValueError: it is missing or of another type; the message names its place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and types.NoneType in arguments):
        return value
    if value is None:
        raise ValueError(_lacking(path))
    if origin is types.UnionType:
        return _decode(arguments[0], value, path)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind) if field.name in value or _is_required(field)]
        return kind(**{name: _decode(hints[name], value.get(name), (*path, name)) for name in names})  # type: ignore[operator]
    if origin is dict and isinstance(value, Mapping):
        return {name: _decode(arguments[1], part, (*path, str(name))) for name, part in value.items()}
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], part, (*path, str(index))) for index, part in enumerate(value)]
    # An integer is a float without a fraction; a truth value is neither.
    numbers = {int: int, float: int | float}
    if isinstance(value, numbers.get(kind, origin or kind)) and isinstance(value, bool) <= (kind is bool):
        return value
    wanted = getattr(kind, "__name__", kind) if origin is None else origin.__name__
    raise ValueError(f"the results have {'.'.join(path)}={value!r}, which must be of the type {wanted}")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING
