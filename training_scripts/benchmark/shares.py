"""Where the time of a training step goes, by kind of operation."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


#: Kinds of operations by parts of their names in torch's profiler, the first that fits. The first two are arithmetic
#: that the model cannot do without; the rest is what stands around it.
KINDS = {
    "attention": ("hf_effattn_kernels", "scaled_dot_product"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_linear"),
    "filters": ("conv", "pool", "constant_pad"),
    "copies and fills": ("aten::copy_", "aten::fill_", "aten::zero_", "aten::cat", "aten::clone"),
}
OTHER = "other"


def step_shares(step: Callable[[], Any]) -> dict[str, float]:
    """The share of every kind in the time that `step` spends inside operations of torch."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), OTHER)
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: float(f"{time / total:.4g}") for kind, time in spent.items()}
