"""How memory is allocated while the benchmark runs, which the processes are started with."""

import os
import sys


#: glibc gives large freed blocks back at once and maps new ones, so that every fresh output costs page faults. These
#: thresholds make it keep them, as jemalloc and tcmalloc do.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}

#: For measuring peaks: every tensor is mapped and unmapped on its own, so that freed memory cannot hide a peak.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def restart_keeping_memory() -> None:
    """Replace this process by itself with `KEEP_FREED_MEMORY`, unless it already runs with it."""
    if any(os.environ.get(name) != value for name, value in KEEP_FREED_MEMORY.items()):
        # Not `sys.argv`, which has the path of a file where Python was started with -m.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_FREED_MEMORY)
