"""The plots of the report, from the results only: equal results give equal bytes."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measuring.figures import DETERMINISTIC
from ..measuring.ratios import median_seconds
from .problem import ELU, MODES


Curves = dict[str, dict[int, float]]


def write_plots(results: dict[str, Any], folder: Path) -> list[str]:
    """Write what can be plotted; returns the names of the files."""
    panels = {"time": time_panels(results.get("operators")), "memory": memory_panels(results.get("memory"))}
    labels = {"time": "milliseconds", "memory": "peak MiB beyond the inputs"}
    written = []
    for name, curves in panels.items():
        if curves:
            path = folder / f"benchmark-{name}.svg"
            draw(curves, labels[name], path)
            written.append(path.name)
    return written


def time_panels(operators: dict[str, Any] | None) -> dict[str, Curves]:
    """Median time against the length, one panel per direction and mode: elu + 1 and its peers in float32."""
    panels: dict[str, Curves] = {}
    for scenario in (operators or {}).get("scenarios", []):
        problem = scenario["problem"]
        if problem["feature_map"] != ELU or problem["dtype"] != "float32":
            continue
        panel = panels.setdefault(_title(problem["causal"], scenario["mode"]), {})
        for entry in scenario["entries"]:
            if "seconds" in entry:
                panel.setdefault(entry["name"], {})[problem["length"]] = median_seconds(entry["seconds"]) * 1e3
    return panels


def memory_panels(memory: dict[str, Any] | None) -> dict[str, Curves]:
    """Peak memory against the length, one panel per direction and mode."""
    panels: dict[str, Curves] = {}
    for point in (memory or {}).get("points", []):
        if "peak_bytes" in point:
            panel = panels.setdefault(_title(point["causal"], point["mode"]), {})
            panel.setdefault(point["name"], {})[point["length"]] = max(point["peak_bytes"], 1) / 2**20
    return panels


def draw(panels: dict[str, Curves], label: str, path: Path) -> None:
    """One log-log plot per panel, with one legend for all."""
    names = sorted({name for curves in panels.values() for name in curves})
    styles = {name: _style(name, index) for index, name in enumerate(names)}
    rows = -(-len(panels) // len(MODES))
    with matplotlib.rc_context(DETERMINISTIC):
        figure = Figure(figsize=(11, 4 * rows + 1.2), layout="constrained")
        grid = figure.subplots(rows, len(MODES), squeeze=False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            _draw_panel(axes, title, curves, styles, label)
        handles = {
            text: handle
            for axes in figure.axes
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=3, fontsize="small")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_panel(axes: Axes, title: str, curves: Curves, styles: dict[str, dict[str, Any]], label: str) -> None:
    for name, curve in sorted(curves.items()):
        lengths = sorted(curve)
        axes.plot(lengths, [curve[length] for length in lengths], label=name, markersize=4, **styles[name])
    ticks = sorted({length for curve in curves.values() for length in curve})
    axes.set(xscale="log", yscale="log", title=title, xlabel="N", ylabel=label)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)


def _style(name: str, index: int) -> dict[str, Any]:
    width = 2.5 if name.startswith("hf_effattn") else 1.2
    return {"color": f"C{index % 10}", "marker": "osv^Dx"[index // 10], "linewidth": width}


def _title(causal: bool, mode: str) -> str:
    return f"{'causal' if causal else 'bidirectional'}, {mode}"
