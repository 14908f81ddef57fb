"""The form of a task's result file: JSON lines that write down once what many runs share.

- The first line is ``{"schema_version": 1}``.
- Then come the shared values, ``{"key": digest, "value": ...}``: recipes, data, environments and backends.
- Then come the runs, sorted by variant and seed. A run names its shared values by their keys, and keeps only the
  arguments of its own, `OWN_ARGUMENTS`, in full. A list of measurements, ``[{"step": 1, "loss": 0.5}, ...]``, is
  written as columns, ``{"step": [1, ...], "loss": [0.5, ...]}``.

`decode` gives back exactly what `encode` was given.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


#: A run's record: fingerprint, arguments, error and outcome.
Result = dict[str, Any]
#: (variant, seed) -> the record of the run.
Results = dict[tuple[str, int], Result]

SCHEMA_VERSION = 1

#: The fields of a record.
FIELDS = ("fingerprint", "arguments", "error", "outcome")
#: Arguments in which the runs of a task differ; the others are those of the recipe.
OWN_ARGUMENTS = ("model_type", "model_options", "diagnose", "seed")
#: Fields of an outcome that are shared values.
SHARED = ("data", "environment", "backends")
#: Fields of an outcome that are lists of measurements.
MEASUREMENTS = ("curve", "training_loss", "diagnostics")


def encode(results: Results) -> str:
    """The content of a task's result file."""
    shared: dict[str, Any] = {}

    def key_of(value: Any) -> str | None:
        if value is None:
            return None
        key = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
        shared[key] = value
        return key

    runs = []
    for (variant, seed), result in sorted(results.items()):
        # Sorted fields make the digests and the bytes independent of the order in which a run listed them.
        result = json.loads(json.dumps(result, sort_keys=True))
        arguments = result["arguments"]
        run = {
            "variant": variant,
            "seed": seed,
            "recipe": key_of({name: arguments[name] for name in arguments if name not in OWN_ARGUMENTS}),
            **result,
            "arguments": {name: arguments[name] for name in arguments if name in OWN_ARGUMENTS},
        }
        if (outcome := result["outcome"]) is not None:
            short = {name: key_of(outcome[name]) for name in SHARED if name in outcome}
            short |= {name: _columns(outcome[name]) for name in MEASUREMENTS if name in outcome}
            run["outcome"] = outcome | short
        runs.append(run)
    tables = [{"key": key, "value": shared[key]} for key in sorted(shared)]
    return "".join(json.dumps(line) + "\n" for line in [{"schema_version": SCHEMA_VERSION}, *tables, *runs])


def decode(path: Path) -> Results:
    """The results in a task's file.

    Raises:
        ValueError: the file is damaged, has two results of one run, or was written in a newer form.
    """
    results: Results = {}
    shared: dict[str | None, Any] = {None: None}
    lines = path.read_text(errors="replace").splitlines()
    _check_header(path, lines[0] if lines else "")
    for number, text in enumerate(lines[1:], start=2):
        try:
            line = json.loads(text)
            if "value" in line:
                shared[line["key"]] = line["value"]
                continue
            run, result = (line["variant"], line["seed"]), _expand(line, shared)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {path} is damaged ({type(error).__name__}: {error}): restore the file, or delete "
                "the line and train its run again"
            ) from error
        if run in results:
            raise ValueError(f"line {number} of {path} is a second result of {run}: delete one of the two")
        results[run] = result
    return results


def _check_header(path: Path, line: str) -> None:
    try:
        version = json.loads(line)["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not begin as a file of results does: restore it, or delete it and train its runs again"
        ) from error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, and this code reads version {SCHEMA_VERSION}: update hf_effattn"
        )


def _expand(line: dict[str, Any], shared: dict[str | None, Any]) -> Result:
    """The record of a run, from its line."""
    result: Result = {name: line[name] for name in FIELDS}
    result["arguments"] = shared[line["recipe"]] | line["arguments"]
    if (outcome := line["outcome"]) is not None:
        whole = {name: shared[outcome[name]] for name in SHARED if name in outcome}
        whole |= {name: _rows(outcome[name]) for name in MEASUREMENTS if name in outcome}
        result["outcome"] = outcome | whole
    return result


def _columns(rows: list[dict[str, Any]]) -> Any:
    """A column for every field of the rows; the rows themselves if they do not all have the same fields."""
    if not rows or not rows[0] or any(row.keys() != rows[0].keys() for row in rows):
        return rows
    return {name: [row[name] for row in rows] for name in rows[0]}


def _rows(columns: Any) -> Any:
    """The rows that `_columns` was given."""
    if isinstance(columns, list):
        return columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
