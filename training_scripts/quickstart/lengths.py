"""Time and memory of a trained classifier for one review of growing length, measured in a process of its own.

python -m training_scripts.quickstart.lengths runs/quickstart/convluna/model 512 4096
"""

import json
import statistics
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

import hf_effattn  # noqa: F401  (its models become known to the Auto classes)

from ..measuring.peak_memory import reset_peak, status_bytes


#: Reviews of a length are read for so long, and at least so many times.
SECONDS, TIMES = 1.0, 3


@torch.inference_mode()
def measure(folder: str, lengths: list[int]) -> list[dict[str, Any]]:
    """For each length the median of the seconds for one input on one thread, and the bytes that it takes for a while.

    The bytes are the peak of resident memory above what the process holds before the call; None where the system does
    not tell.
    """
    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    # The first call of all loads and builds what the others find.
    for length in (lengths[0], *lengths):
        ids = torch.randint(5, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
        before = status_bytes("VmRSS") if reset_peak() else None
        model(input_ids=ids)
        peak = None if before is None else max(status_bytes("VmHWM") - before, 0)
        seconds: list[float] = []
        while len(seconds) < TIMES or sum(seconds) < SECONDS:
            start = time.perf_counter()
            model(input_ids=ids)
            seconds.append(time.perf_counter() - start)
        found.append({"length": length, "seconds": statistics.median(seconds), "bytes": peak})
    return found[1:]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], [int(length) for length in sys.argv[2:]])))
