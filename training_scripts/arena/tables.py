"""The tables of `RESULTS.md`."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from training_scripts.arena.cells import Cell, Cells
from training_scripts.arena.claims import Claim, Difference, difference
from training_scripts.arena.plan import Plan
from training_scripts.measuring.ratios import median_seconds, ratio


#: Task -> its costs, by variant, and where they were measured.
Costs = dict[str, dict[str, Any]]

#: Stands where there is nothing to say.
NONE = "–"
#: Stands behind an accuracy that is not above what guesses reach.
CHANCE = "°"


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    return tabulate(list(rows), headers=list(headers), tablefmt="github", disable_numparse=True)


def settings_table(plan: Plan, cells: Cells) -> str:
    """What is trained on what."""
    rows = []
    for task, title in plan.titles.items():
        arguments = plan.tasks[task]
        outcomes = [outcome for (name, _), cell in cells.items() if name == task for outcome in cell.outcomes.values()]
        data = outcomes[0]["data"] if outcomes else {}
        size = arguments["model_size"]
        rows.append(
            [
                title,
                f"`{arguments['task']}`",
                " / ".join(f"{data[split]['rows']:,}" for split in ("train", "validation", "test")) if data else NONE,
                f"{arguments['max_length']:,}",
                f"{arguments['max_steps']:,} × {arguments['per_device_train_batch_size']}",
                f"{arguments['learning_rate']:g}",
                f"{size['num_hidden_layers']} × {size['hidden_size']}",
            ]
        )
    return markdown(["task", "`--task`", "rows", "longest", "steps × batch", "learning rate", "layers × width"], rows)


def main_table(plan: Plan, cells: Cells, guesses: dict[str, Any]) -> str:
    """Test accuracy, mean ± standard deviation over the seeds, and means over the tasks; below it, of guesses."""
    rows = []
    averaged = plan.averaged()
    for name, variant in plan.variants.items():
        told = [
            accuracy(cells[task, name], len(plan.seeds)) + (CHANCE if at_chance(cells, task, name, guesses) else "")
            for task in plan.tasks
        ]
        averages = [average([cells[task, name] for task in tasks]) for tasks in averaged.values()]
        rows.append([variant.title, *told, *averages])
    for kind, title in (("commonest", "guess: the commonest label"), ("from_cue", "guess: from a cue")):
        found = [guesses.get(task, {}).get(kind) for task in plan.tasks]
        if any(value is not None for value in found):
            told = [NONE if value is None else f"{100 * value:.1f}" for value in found]
            rows.append([title, *told, *(NONE for _ in averaged)])
    return markdown(["", *plan.titles.values(), *averaged], rows)


def average(row: list[Cell]) -> str:
    """The mean of some cells, if all have been run."""
    means = [cell.mean for cell in row if cell.mean is not None]
    return f"{100 * statistics.mean(means):.1f}" if len(means) == len(row) else NONE


def at_chance(cells: Cells, task: str, variant: str, guesses: dict[str, Any]) -> bool:
    """Whether a variant has been run on a task and is not above the best of the guesses there."""
    cell = cells[task, variant]
    if not cell.outcomes or task not in guesses:
        return False
    return not cell.above(max(guesses[task]["commonest"], guesses[task]["from_cue"] or 0.0))


def cues_text(plan: Plan, guesses: dict[str, Any]) -> str:
    """What the cues of the guesses are, a line each."""
    cues = {task: guesses[task]["cue"] for task in plan.tasks if guesses.get(task, {}).get("cue")}
    return "\n".join(f"- {plan.titles[task]}: {cue}" for task, cue in cues.items()) or "- none"


def accuracy(cell: Cell, seeds: int) -> str:
    """A cell of the main table, in percent, marked if it is not of all `seeds`; one of them has no deviation."""
    if cell.mean is None:
        return "fails" if cell.error else NONE
    done = len(cell.outcomes)
    mark = "" if done == seeds else f" ({done} seed{'s' if done > 1 else ''}{', others fail' if cell.error else ''})"
    return spread(cell.accuracies) + mark


def spread(shares: list[float]) -> str:
    """Mean and sample standard deviation, in percent; a single one has no deviation."""
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation}"


def variants_table(plan: Plan, cells: Cells) -> str:
    """What the variants are, and their parameters, beside those of the first one on the same task."""
    rows = []
    first, *_ = plan.variants
    for name, variant in plan.variants.items():
        counts = [parameters(cells[task, name]) for task in plan.tasks]
        bases = [parameters(cells[task, first]) for task in plan.tasks]
        pairs = [(count, base) for count, base in zip(counts, bases, strict=True) if count and base]
        options = ", ".join(f"{key}={value}" for key, value in variant.options.items())
        rows.append(
            [
                variant.title,
                f"`{variant.model_type}`",
                f"`{options}`" if options else NONE,
                span([count for count in counts if count], "{:,}"),
                span([count - base for count, base in pairs], "{:+,}"),
            ]
        )
    headers = ["", "model_type", "options", "parameters", f"more than {plan.variants[first].title}"]
    return markdown(headers, rows)


def parameters(cell: Cell) -> int | None:
    """How many parameters the models of a cell have, if it has been run."""
    return next((outcome["parameters"] for outcome in cell.outcomes.values()), None)


def span(counts: list[int], form: str) -> str:
    """The least and the greatest of some counts, which tasks may make different."""
    ends = sorted({min(counts), max(counts)}) if counts else []
    return " to ".join(form.format(count) for count in ends) or NONE


def seeds_table(plan: Plan, cells: Cells) -> str:
    """Test accuracy of every single run."""
    rows = []
    for name, variant in plan.variants.items():
        row = []
        for task in plan.tasks:
            outcomes = cells[task, name].outcomes
            row.append(
                " ".join(
                    f"{100 * outcomes[seed]['test_accuracy']:.1f}" if seed in outcomes else NONE for seed in plan.seeds
                )
            )
        rows.append([variant.title, *row])
    return markdown(["", *plan.titles.values()], rows)


def errors_list(plan: Plan, cells: Cells) -> str:
    """Why models of transformers fail."""
    lines = [
        f"- {plan.variants[name].title} on {plan.titles[task]}: `{cell.error}`"
        for (task, name), cell in cells.items()
        if cell.error
    ]
    return "\n".join(lines) or "None failed."


def padding_table(plan: Plan, padding: dict[str, Any]) -> str:
    """What padding does to the models of transformers, and to ours at worst."""

    def told(found: dict[str, Any]) -> str:
        return f"`{found['error']}`" if found["error"] else f"{found['difference']:.1e}"

    rows = [
        [plan.variants[name].title, told(found["added"]), told(found["content"])]
        for name, found in padding.items()
        if plan.variants[name].builtin
    ]
    ours = [found for name, found in padding.items() if not plan.variants[name].builtin]
    worst = [max((found[kind] for found in ours), key=_severity) for kind in ("added", "content")]
    rows.append([f"the worst of our {len(ours)} variants", *(told(found) for found in worst)])
    return markdown(["", "padding added", "content of padding changed"], rows)


def _severity(found: dict[str, Any]) -> float:
    return float("inf") if found["error"] else found["difference"]


def costs_table(plan: Plan, costs: Costs) -> str:
    """Milliseconds of a training step, and the peak of memory beyond model and optimizer."""
    rows = []
    for name, variant in plan.variants.items():
        row = []
        for task in plan.tasks:
            cost = costs.get(task, {}).get("variants", {}).get(name)
            if cost is None or cost["error"]:
                row.append("fails" if cost else NONE)
                continue
            told = f"{step_milliseconds(cost):.0f} ms"
            if "peak_bytes" in cost:
                told += f", {max(cost['peak_bytes'] - cost['state_bytes'], 0) / 2**20:.0f} MiB"
            row.append(told)
        rows.append([variant.title, *row])
    return markdown(["", *plan.titles.values()], rows)


def step_milliseconds(cost: dict[str, Any]) -> float:
    """Median time of a training step."""
    return 1e3 * median_seconds(cost["seconds"])


def bf16_table(plan: Plan, costs: Costs) -> str:
    """The time of a step under autocast to bfloat16 over that in float32, where it was measured."""
    rows = []
    for name, variant in plan.variants.items():
        row = []
        for task in plan.tasks:
            cost = costs.get(task, {}).get("variants", {}).get(name, {})
            found = ratio(cost["bf16_seconds"], cost["seconds"]) if "bf16_seconds" in cost else None
            row.append(f"{found.median:.2f}" if found else NONE)
        if set(row) != {NONE}:
            rows.append([variant.title, *row])
    return markdown(["", *plan.titles.values()], rows)


def core_hours(plan: Plan, costs: Costs) -> float:
    """How long one core takes for the training steps of all runs whose step was measured."""
    seconds = [
        plan.tasks[run.task]["max_steps"] * step_milliseconds(cost) / 1e3
        for run in plan.runs()
        if (cost := costs.get(run.task, {}).get("variants", {}).get(run.variant.name)) and not cost["error"]
    ]
    return sum(seconds) / 3600


def equal_time_table(plan: Plan, cells: Cells, costs: Costs) -> str:
    """Best validation accuracy after as long as the fastest variant takes for all its steps."""
    rows = []
    for name, variant in plan.variants.items():
        row = []
        for task in plan.tasks:
            listed = costs.get(task, {}).get("variants", {})
            measured = {other: step_milliseconds(cost) for other, cost in listed.items() if not cost["error"]}
            steps = plan.tasks[task]["max_steps"]
            if name not in measured:
                row.append(NONE)
                continue
            affordable = steps * (min(measured.values()) / measured[name])
            best = cells[task, name].best_by(affordable)
            row.append(f"{spread(best)} ({affordable / steps:.0%})" if best else NONE)
        rows.append([variant.title, *row])
    return markdown(["", *plan.titles.values()], rows)


def claim_table(plan: Plan, cells: Cells, claim: Claim) -> str:
    """The differences of every pair and of all pairs, on every task and on average."""
    columns = [[task] for task in plan.tasks] + list(plan.averaged().values())
    chosen = {" − ".join(plan.variants[name].title for name in pair): [pair] for pair in claim.pairs}
    if len(claim.pairs) > 1:
        chosen["mean of these"] = list(claim.pairs)
    rows = [
        [title, *(points(difference(cells, tasks, pairs)) for tasks in columns)] for title, pairs in chosen.items()
    ]
    return markdown(["", *plan.titles.values(), *plan.averaged()], rows)


def points(found: Difference | None) -> str:
    """A difference in percentage points with its interval; bold if the interval leaves out zero."""
    if found is None:
        return NONE
    if found.half_width is None:
        return f"{100 * found.mean:+.1f}"
    text = f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f}"
    return text if found.verdict == "undecided" else f"**{text}**"


def verdict(plan: Plan, cells: Cells, claim: Claim, guesses: dict[str, Any]) -> str:
    """How often the variants of a claim are better, worse or neither, in words."""
    found = {(task, pair): difference(cells, [task], [pair]) for pair in claim.pairs for task in plan.tasks}
    present = {key: part for key, part in found.items() if part is not None}
    if not present:
        return "No pair has been run yet."
    verdicts = [part.verdict for part in present.values()]
    counted = {word: verdicts.count(word) for word in ("better", "worse", "undecided")}
    text = (
        f"Of {len(verdicts)} pairs of a variant and a task, {counted['better']} are better, {counted['worse']} worse, "
        f"and {counted['undecided']} undecided at 95 %; {averages(list(present.values()))}."
    )
    for title, tasks in list(plan.averaged().items())[1:]:
        if chosen := [part for (task, _), part in present.items() if task in tasks]:
            text += f" {title[0].upper()}{title[1:]}, {averages(chosen)}."
    learnt = [
        part
        for (task, pair), part in present.items()
        if not all(at_chance(cells, task, name, guesses) for name in pair)
    ]
    if not learnt or len(learnt) == len(present):
        return text
    guessing = len(present) - len(learnt)
    return f"{text} In {guessing} of them neither is above the guesses; without these, {averages(learnt)}."


def averages(found: list[Difference]) -> str:
    """The middle of some differences, in words."""
    means = [100 * part.mean for part in found]
    return f"the mean difference is {statistics.mean(means):+.1f} points, the median {statistics.median(means):+.1f}"


def published_tables(path: Path) -> tuple[str, str]:
    """What others report on the full arena, and what the authors' notebooks print."""
    content = yaml.safe_load(path.read_text())
    rows = [
        [name, *(score if isinstance(score, str) else f"{score:.2f}" for score in row["scores"]), row["source"]]
        for name, row in content["rows"].items()
    ]
    authors = [
        [name, " ".join(f"{score:.2f}" for score in row["scores"]), f"{statistics.mean(row['scores']):.2f}"]
        for name, row in content["authors"].items()
    ]
    return markdown(["", *content["columns"], "source"], rows), markdown(["", "runs", "mean"], authors)
