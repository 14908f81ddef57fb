"""Measure operators and models against their peers, and write ``benchmark.json``, a report and plots.

    python -m training_scripts.benchmark.run                    # everything
    python -m training_scripts.benchmark.run --only operators   # one group; the others stay as they are
    python -m training_scripts.benchmark.run --quick            # seconds, to see that everything runs

The script starts itself again with an allocator that keeps freed memory, unless --default-allocator is given.
"""

import argparse
import sys
import warnings
from pathlib import Path

from ..measuring.allocator import restart_keeping_memory
from .settings import GROUPS, Settings, quick_settings


RESULTS = Path(__file__).resolve().parents[1] / "results"
QUICK_RESULTS = Path("runs/benchmark-quick")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the numbers mean nothing")
    parser.add_argument("--only", choices=GROUPS, help="run one group")
    parser.add_argument("--resume", action="store_true", help="keep groups that are there with the same settings")
    parser.add_argument("--threads", type=int, help="threads of torch, its own choice if not given")
    parser.add_argument("--output-dir", type=Path, help=f"where to write, {RESULTS.name}/ beside the scripts if full")
    parser.add_argument("--default-allocator", action="store_true", help="leave the allocator as it is")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Run what the command line asks for."""
    options = parse(arguments)
    # Not above: a process that is about to be replaced need not load torch.
    import torch
    import transformers

    from .suite import run_groups

    # Peers and transformers' models warn about themselves, on every call.
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = quick_settings() if options.quick else Settings()
    folder = options.output_dir or (QUICK_RESULTS if options.quick else RESULTS)
    run_groups([options.only] if options.only else list(GROUPS), settings, folder, options.resume)


if __name__ == "__main__":
    if not parse(sys.argv[1:]).default_allocator:
        restart_keeping_memory()
    main(sys.argv[1:])
