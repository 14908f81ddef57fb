"""The plots of `RESULTS.md`; the same results give the same bytes."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from training_scripts.arena.plan import Plan
from training_scripts.arena.scores import ScoreTable
from training_scripts.measuring.figures import DETERMINISTIC


#: Variant -> step -> value.
Curves = dict[str, dict[int, float]]


def write_plots(plan: Plan, table: ScoreTable, folder: Path) -> list[str]:
    """Write every plot that has results; returns the names of the files."""
    learning = {
        title: {name: table[task, name].curve() for name in plan.variants} for task, title in plan.titles.items()
    }
    memories = [name for name, variant in plan.variants.items() if "memory_size" in variant.options]
    cosines = {
        title: {name: table[task, name].diagnostic("memory_cosine") for name in memories}
        for task, title in plan.titles.items()
    }
    written = []
    for name, panels, label, limits in (
        ("arena-learning.svg", learning, "validation accuracy", None),
        ("arena-memory.svg", cosines, "mean cosine between memory cells", (0, 1)),
    ):
        panels = {title: _present(curves) for title, curves in panels.items() if _present(curves)}
        if panels:
            draw(plan, panels, label, folder / name, limits)
            written.append(name)
    return written


def _present(curves: Curves) -> Curves:
    return {name: curve for name, curve in curves.items() if curve}


def draw(
    plan: Plan, panels: dict[str, Curves], label: str, path: Path, limits: tuple[float, float] | None = None
) -> None:
    """Draw one panel per task, with one legend for all; `limits` bounds the values that are shown."""
    styles = {name: _style(plan, name, index) for index, name in enumerate(plan.variants)}
    columns = 3
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(DETERMINISTIC):
        figure = Figure(figsize=(13, 3.6 * rows + 1.8), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.remove()
        handles = {}
        for axes, (title, curves) in zip(grid, panels.items(), strict=False):
            for name, curve in curves.items():
                (handles[name],) = axes.plot(list(curve), list(curve.values()), **styles[name])
            axes.set(title=title, xlabel="steps", ylabel=label, ylim=limits)
            axes.grid(alpha=0.3)
        named = [name for name in plan.variants if name in handles]
        figure.legend(
            [handles[name] for name in named],
            [plan.variants[name].title for name in named],
            loc="outside lower center",
            ncols=4,
            fontsize="small",
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def _style(plan: Plan, name: str, index: int) -> dict[str, Any]:
    """The style of a line: a filtered variant has a broken line in the colour of the variant without a filter."""
    variant = plan.variants[name]
    colours = [other for other, entry in plan.variants.items() if entry.filtered is None]
    colour = colours.index(variant.filtered or name)
    line = "-" if variant.filtered is None else "--" if index % 2 else ":"
    return {"color": matplotlib.colormaps["tab20"](colour % 20), "linestyle": line, "linewidth": 1.4}
