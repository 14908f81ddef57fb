"""Check and time the Triton kernels on the GPU that is there, in some four minutes on an H100.

    python -m training_scripts.benchmark.gpu [--output FOLDER] [--parts check,causal,...]

It needs a checkout, torch and Triton, and no installation: where the package itself cannot be imported (another
transformers, say), its operators are loaded alone, and the part ``steps``, which trains whole models, is recorded as
failed. Each part runs in a process of its own, since a fault on the GPU ends a process; what fails is recorded, and
the rest goes on. Times are medians, with the error of the output against a float64 oracle beside them, also as they
are when a CUDA graph replays them, without the time that Python needs to launch kernels.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from .gpu_parts import PARTS, ROOT, describe, load_operators


RESULTS = ROOT / "training_scripts" / "results"


def run_part(name: str, small: bool, arguments: list[int]) -> None:
    """In the process of a part: print each row as a line of JSON."""
    load_operators()
    try:
        for row in PARTS[name](small, *arguments):
            print(json.dumps(row), flush=True)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"[:500]
        print(json.dumps({"failure": failure, "where": traceback.format_exc()[-800:]}), flush=True)


@dataclasses.dataclass
class Report:
    """What a run found, in the order of its parts."""

    environment: dict[str, Any]
    parts: dict[str, list[dict[str, Any]]]

    @property
    def failures(self) -> list[str]:
        """What failed, in words."""
        rows = [(name, row) for name, part in self.parts.items() for row in part]
        return [f"{name}: {row}" for name, row in rows if "failure" in row or row.get("passed") is False]


def start(name: str, small: bool, *arguments: int) -> "subprocess.Popen[str]":
    """Start the process of a part."""
    command = [
        sys.executable,
        "-m",
        "training_scripts.benchmark.gpu",
        "--part",
        name,
        *(str(argument) for argument in arguments),
    ]
    command += ["--small"] if small else []
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def collect(name: str, process: "subprocess.Popen[str]", limit: float) -> list[dict[str, Any]]:
    """The rows of a part; if its process died or took longer than `limit` seconds, a last one says so."""
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # With the processes that it has started, which compile for it.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if process.returncode != 0:
        rows.append({"failure": f"the process of {name} ended with {process.returncode}"})
    return rows


def main() -> int:
    """Run the parts, write ``gpu-<card>-torch<version>-triton<version>.json``, and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of the result file")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument("--limit", type=float, default=90, help="seconds after which a part is stopped")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script itself")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part[0], options.small, [int(argument) for argument in options.part[1:]])
        return 0
    report = Report(describe(), {})
    wanted = options.parts.split(",")
    card = "-".join(report.environment["card"].split()[:2]).lower()
    versions = f"torch{report.environment['torch'].split('+')[0]}-triton{report.environment['triton']}"
    path = options.output / f"gpu-{card}-{versions}.json"
    options.output.mkdir(parents=True, exist_ok=True)
    if unknown := set(wanted) - PARTS.keys():
        parser.error(f"there are no parts {sorted(unknown)}, but {list(PARTS)}")
    for name in wanted:
        shares = min(12, os.cpu_count() or 1) if name == "check" else 0
        processes = [start(name, options.small, share, shares) for share in range(shares)]
        processes = processes or [start(name, options.small)]
        report.parts[name] = [row for process in processes for row in collect(name, process, options.limit)]
        path.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        print(f"{name}: {len(report.parts[name])} rows", flush=True)
    print(f"written {path}", *report.failures, sep="\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
