"""What a group of measurements ran on, and how memory was allocated meanwhile."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hf_effattn.machine import processor_name
from hf_effattn.version import __version__


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions and allocator."""
    allocator = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_") or name == "LD_PRELOAD"
    }
    return {
        "cpu": processor_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "hf_effattn": __version__,
        "allocator": allocator or "the system's defaults",
    }


def load_average() -> list[float]:
    """Running processes over the last 1, 5 and 15 minutes; nothing on systems that do not count them."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def package_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
