"""The tables of `RESULTS.md`."""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from training_scripts.arena.claims import Claim, Difference, difference
from training_scripts.arena.plan import Plan
from training_scripts.arena.scores import Scores, ScoreTable
from training_scripts.measuring.ratios import median_seconds, ratio


#: Task -> its costs, by variant, and where they were measured.
Costs = dict[str, dict[str, Any]]

#: An empty entry.
NONE = "–"
#: Mark of an accuracy that is not significantly above the guesses.
CHANCE = "°"


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    return tabulate(list(rows), headers=list(headers), tablefmt="github", disable_numparse=True)


def settings_table(plan: Plan, table: ScoreTable) -> str:
    """The data and the recipe of every task."""
    rows = []
    for task, title in plan.titles.items():
        arguments = plan.tasks[task]
        outcomes = [
            outcome for (name, _), scores in table.items() if name == task for outcome in scores.outcomes.values()
        ]
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


def main_table(plan: Plan, table: ScoreTable, guesses: dict[str, Any]) -> str:
    """Test accuracy, mean ± standard deviation over the seeds, and means over the tasks; the last rows are guesses."""
    rows = []
    averaged = plan.averaged()
    for name, variant in plan.variants.items():
        entries = [
            accuracy(table[task, name], len(plan.seeds)) + (CHANCE if at_chance(table, task, name, guesses) else "")
            for task in plan.tasks
        ]
        averages = [average([table[task, name] for task in tasks]) for tasks in averaged.values()]
        rows.append([variant.title, *entries, *averages])
    for kind, title in (("commonest", "guess: the commonest label"), ("from_cue", "guess: from a cue")):
        found = [guesses.get(task, {}).get(kind) for task in plan.tasks]
        if any(value is not None for value in found):
            entries = [NONE if value is None else f"{100 * value:.1f}" for value in found]
            rows.append([title, *entries, *(NONE for _ in averaged)])
    return markdown(["", *plan.titles.values(), *averaged], rows)


def average(row: list[Scores]) -> str:
    """The mean over some tasks, if the variant has scores on all of them."""
    means = [scores.mean for scores in row if scores.mean is not None]
    return f"{100 * statistics.mean(means):.1f}" if len(means) == len(row) else NONE


def at_chance(table: ScoreTable, task: str, variant: str, guesses: dict[str, Any]) -> bool:
    """Whether a variant has scores on a task that are not significantly above the best guess."""
    scores = table[task, variant]
    if not scores.outcomes or task not in guesses:
        return False
    return not scores.is_above(max(guesses[task]["commonest"], guesses[task]["from_cue"] or 0.0))


def cues_text(plan: Plan, guesses: dict[str, Any]) -> str:
    """The cues of the guesses, one line each."""
    cues = {task: guesses[task]["cue"] for task in plan.tasks if guesses.get(task, {}).get("cue")}
    return "\n".join(f"- {plan.titles[task]}: {cue}" for task, cue in cues.items()) or "- none"


def accuracy(scores: Scores, seeds: int) -> str:
    """An entry of the main table, in percent, with a note if seeds are missing."""
    if scores.mean is None:
        return "fails" if scores.error else NONE
    done = len(scores.outcomes)
    mark = "" if done == seeds else f" ({done} seed{'s' if done > 1 else ''}{', others fail' if scores.error else ''})"
    return spread(scores.accuracies) + mark


def spread(shares: list[float]) -> str:
    """Mean and sample standard deviation, in percent; a single value has no deviation."""
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation}"


def variants_table(plan: Plan, table: ScoreTable) -> str:
    """Model types, options and numbers of parameters, also relative to the first variant on the same task."""
    rows = []
    first, *_ = plan.variants
    for name, variant in plan.variants.items():
        counts = [parameters(table[task, name]) for task in plan.tasks]
        bases = [parameters(table[task, first]) for task in plan.tasks]
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


def parameters(scores: Scores) -> int | None:
    """The number of parameters of the models; None before the first run."""
    return next((outcome["parameters"] for outcome in scores.outcomes.values()), None)


def span(counts: list[int], form: str) -> str:
    """The smallest and the greatest count, which can differ between tasks."""
    ends = sorted({min(counts), max(counts)}) if counts else []
    return " to ".join(form.format(count) for count in ends) or NONE


def variant_rows(plan: Plan, entry: Callable[[str, str], str]) -> list[list[str]]:
    """A row per variant, with its title and ``entry(task, variant)`` for every task."""
    return [[variant.title, *(entry(task, name) for task in plan.tasks)] for name, variant in plan.variants.items()]


def seeds_table(plan: Plan, table: ScoreTable) -> str:
    """Test accuracy of every run."""

    def entry(task: str, name: str) -> str:
        outcomes = table[task, name].outcomes
        scores = (f"{100 * outcomes[seed]['test_accuracy']:.1f}" if seed in outcomes else NONE for seed in plan.seeds)
        return " ".join(scores)

    return markdown(["", *plan.titles.values()], variant_rows(plan, entry))


def errors_list(plan: Plan, table: ScoreTable) -> str:
    """The errors of models of transformers."""
    lines = [
        f"- {plan.variants[name].title} on {plan.titles[task]}: `{scores.error}`"
        for (task, name), scores in table.items()
        if scores.error
    ]
    return "\n".join(lines) or "None failed."


def padding_table(plan: Plan, padding: dict[str, Any]) -> str:
    """The effect of padding on models of transformers, and the worst effect on ours."""

    def shown(found: dict[str, Any]) -> str:
        return f"`{found['error']}`" if found["error"] else f"{found['difference']:.1e}"

    rows = [
        [plan.variants[name].title, shown(found["added"]), shown(found["content"])]
        for name, found in padding.items()
        if plan.variants[name].builtin
    ]
    ours = [found for name, found in padding.items() if not plan.variants[name].builtin]
    worst = [max((found[kind] for found in ours), key=_severity) for kind in ("added", "content")]
    rows.append([f"the worst of our {len(ours)} variants", *(shown(found) for found in worst)])
    return markdown(["", "padding added", "content of padding changed"], rows)


def _severity(found: dict[str, Any]) -> float:
    return float("inf") if found["error"] else found["difference"]


def costs_table(plan: Plan, costs: Costs) -> str:
    """Milliseconds of a training step, and peak memory beyond model and optimizer."""

    def entry(task: str, name: str) -> str:
        cost = cost_of(costs, task, name)
        if cost is None or cost["error"]:
            return "fails" if cost else NONE
        text = f"{step_milliseconds(cost):.0f} ms"
        if "peak_bytes" in cost:
            text += f", {max(cost['peak_bytes'] - cost['state_bytes'], 0) / 2**20:.0f} MiB"
        return text

    return markdown(["", *plan.titles.values()], variant_rows(plan, entry))


def cost_of(costs: Costs, task: str, name: str) -> dict[str, Any] | None:
    """The costs of a variant on a task; None if they were not measured."""
    found: dict[str, Any] | None = costs.get(task, {}).get("variants", {}).get(name)
    return found


def step_milliseconds(cost: dict[str, Any]) -> float:
    """Median time of a training step."""
    return 1e3 * median_seconds(cost["seconds"])


def bf16_table(plan: Plan, costs: Costs) -> str:
    """The time of a step under autocast to bfloat16, divided by that in float32, where it was measured."""

    def entry(task: str, name: str) -> str:
        cost = cost_of(costs, task, name) or {}
        found = ratio(cost["bf16_seconds"], cost["seconds"]) if "bf16_seconds" in cost else None
        return f"{found.median:.2f}" if found else NONE

    rows = [row for row in variant_rows(plan, entry) if set(row[1:]) != {NONE}]
    return markdown(["", *plan.titles.values()], rows)


def core_hours(plan: Plan, costs: Costs) -> float:
    """Hours of one core for the training steps of all runs whose step was measured."""
    seconds = [
        plan.tasks[run.task]["max_steps"] * step_milliseconds(cost) / 1e3
        for run in plan.runs()
        if (cost := cost_of(costs, run.task, run.variant.name)) and not cost["error"]
    ]
    return float(sum(seconds)) / 3600


def equal_time_table(plan: Plan, table: ScoreTable, costs: Costs) -> str:
    """Best validation accuracy in the time that the fastest variant takes for all its steps."""

    def entry(task: str, name: str) -> str:
        listed = costs.get(task, {}).get("variants", {})
        measured = {other: step_milliseconds(cost) for other, cost in listed.items() if not cost["error"]}
        if name not in measured:
            return NONE
        steps = plan.tasks[task]["max_steps"]
        affordable = steps * (min(measured.values()) / measured[name])
        best = table[task, name].best_by(affordable)
        return f"{spread(best)} ({affordable / steps:.0%})" if best else NONE

    return markdown(["", *plan.titles.values()], variant_rows(plan, entry))


def claim_table(plan: Plan, table: ScoreTable, claim: Claim) -> str:
    """The differences of every pair, and of all pairs together, on every task and on average."""
    columns = [[task] for task in plan.tasks] + list(plan.averaged().values())
    chosen = {" − ".join(plan.variants[name].title for name in pair): [pair] for pair in claim.pairs}
    if len(claim.pairs) > 1:
        chosen["mean of these"] = list(claim.pairs)
    rows = [
        [title, *(points(difference(table, tasks, pairs)) for tasks in columns)] for title, pairs in chosen.items()
    ]
    return markdown(["", *plan.titles.values(), *plan.averaged()], rows)


def points(found: Difference | None) -> str:
    """A difference in percentage points with its interval; bold if the interval does not contain zero."""
    if found is None:
        return NONE
    if found.half_width is None:
        return f"{100 * found.mean:+.1f}"
    text = f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f}"
    return text if found.verdict == "undecided" else f"**{text}**"


def verdict(plan: Plan, table: ScoreTable, claim: Claim, guesses: dict[str, Any]) -> str:
    """How often the variants of a claim are better, worse or undecided, in words."""
    found = {(task, pair): difference(table, [task], [pair]) for pair in claim.pairs for task in plan.tasks}
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
        if not all(at_chance(table, task, name, guesses) for name in pair)
    ]
    if not learnt or len(learnt) == len(present):
        return text
    guessing = len(present) - len(learnt)
    return f"{text} In {guessing} of them neither is above the guesses; without these, {averages(learnt)}."


def averages(found: list[Difference]) -> str:
    """Mean and median of some differences, in words."""
    means = [100 * part.mean for part in found]
    return f"the mean difference is {statistics.mean(means):+.1f} points, the median {statistics.median(means):+.1f}"


def published_tables(path: Path) -> tuple[str, str]:
    """Two tables: published results on the full arena, and those that the authors' notebooks print."""
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
