"""The tables of the report, from the results only."""

from typing import Any

from tabulate import tabulate

from ..measuring.ratios import Spread, Times, median_seconds, ratio
from .models import TRAINING_STEP
from .operators import BASELINE
from .problem import FORWARD, GLU, IDENTITY
from .ratios import above_floor, floor_seconds, times_of
from .shares import KINDS, OTHER
from .targets import OUR_CPU, Target


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def milliseconds(times: Times | None) -> str:
    """Median time, or a dash."""
    return "–" if times is None else f"{median_seconds(times) * 1e3:,.2f}"


def with_spread(value: Spread | None) -> str:
    """A ratio and its quartiles, or a dash."""
    return "–" if value is None else f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"


def mebibytes(size: float) -> str:
    """A size in MiB."""
    return f"{size / 2**20:,.1f}"


def target_table(targets: list[Target]) -> str:
    """Every target, the figure reached, and whether it was met."""
    rows = []
    for target in targets:
        if target.reached is None:
            figure = "not measured"
        else:
            figure = with_spread(target.spread) if target.spread is not None else f"{target.reached:.2f}"
        met = {True: "yes", False: "**no**", None: "–"}[target.met]
        at_floor = "–" if target.at_floor is None else f"{target.at_floor:.2f}"
        rows.append([target.text, f"{'≥' if target.at_least else '≤'} {target.bound:g}", figure, at_floor, met])
    return table(["target", "bound", "reached", "at the floor", "met"], rows)


def scenario_title(scenario: dict[str, Any]) -> str:
    """What a scenario is about, without its length."""
    problem = scenario["problem"]
    direction = "causal" if problem["causal"] else "bidirectional"
    return f"{operator_name(problem)}, {direction}, {scenario['mode']}, {problem['dtype']}"


def operator_name(problem: dict[str, Any]) -> str:
    """What tables call linear attention with the feature map of a problem."""
    names = {GLU: f"trained map, {problem['features']} features", IDENTITY: "SimpleTRON"}
    return names.get(problem["feature_map"], "elu + 1")


def operator_table(scenario: dict[str, Any]) -> str:
    """Every candidate that was timed, with its check beside its time."""
    baseline, ours = times_of(scenario, BASELINE), times_of(scenario, OUR_CPU)
    headers = ["candidate", "computes", "ms", f"{BASELINE} / it", f"it / {OUR_CPU}", "× floor", "largest error"]
    rows = []
    for entry in scenario["entries"]:
        times = entry.get("seconds")
        if times is None:
            continue
        above = above_floor(scenario, entry["name"]) if entry["name"].startswith("hf_effattn") else None
        rows.append(
            [
                entry["name"],
                entry["computes"],
                milliseconds(times),
                with_spread(None if baseline is None else ratio(baseline, times)),
                with_spread(None if ours is None else ratio(times, ours)),
                "–" if above is None or scenario["problem"]["dtype"] != "float32" else f"{above:.2f}",
                f"{max(entry['check']['errors'].values()):.1e}",
            ]
        )
    rounds = len(scenario["product"]["seconds"])
    floor = f"{rounds} rounds, arithmetic floor {floor_seconds(scenario) * 1e3:.2f} ms"
    return f"{table(headers, rows)}\n\n{floor}."


def untimed_table(operators: dict[str, Any]) -> str:
    """Every candidate without a time, and why; what is the same at several lengths is said once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for scenario in operators["scenarios"]:
        for entry in scenario["entries"]:
            if entry["error"] is not None:
                place = f"{scenario_title(scenario)}, N={scenario['problem']['length']}"
                reasons.setdefault((entry["name"], entry["error"]), []).append(place)
    rows = [[name, error, "; ".join(places)] for (name, error), places in reasons.items()]
    return table(["candidate", "why it has no time", "where"], rows) if rows else "None."


def model_table(models: dict[str, Any], baseline: str) -> str:
    """Every model: size, times, and its checks."""
    entries = models["entries"]
    base: dict[str, Times] = next((entry["seconds"] for entry in entries if entry["name"] == baseline), {})
    headers = ["model", "attention", "parameters", "training step, ms", f"{baseline} / it"]
    headers += ["forward, ms", f"{baseline} / it", "padding exact", "error"]
    rows = []
    for entry in entries:
        row = [entry["name"], entry["attention"], "–" if entry["parameters"] is None else f"{entry['parameters']:,}"]
        for label in (TRAINING_STEP, FORWARD):
            times = entry["seconds"].get(label)
            row.append(milliseconds(times))
            row.append(with_spread(ratio(base[label], times) if times is not None and label in base else None))
        rows.append([*row, padding_text(entry["check"]), entry["error"] or ""])
    return table(headers, rows)


def breakdown_table(breakdown: dict[str, Any]) -> str:
    """What the forward time of the kernels consists of."""
    headers = ["operator", "N", "ms", "in the kernels", "Python and dispatch", "arithmetic floor", "kernels / floor"]
    rows = []
    for entry in breakdown["entries"]:
        problem, total, inside = entry["problem"], entry["total_seconds"], entry["kernel_seconds"]
        floor = entry["floor_seconds"]
        times = [f"{seconds * 1e3:.2f}" for seconds in (total, inside, total - inside, floor)]
        rows.append([operator_name(problem), f"{problem['length']:,}", *times, f"{inside / floor:.2f}"])
    return table(headers, rows)


def share_table(models: dict[str, Any]) -> str:
    """How the time of a training step is divided among kinds of operations."""
    rows = [
        [entry["name"], *[f"{entry['shares'][kind]:.0%}" for kind in (*KINDS, OTHER)]]
        for entry in models["entries"]
        if entry["shares"] is not None
    ]
    return table(["model", *KINDS, OTHER], rows)


def padding_text(check: dict[str, Any] | None) -> str:
    """Whether padding leaves a model's logits as they are."""
    if check is None:
        return "–"
    padding = check["padding"]
    if padding["error"] is not None:
        return f"no ({padding['error']})"
    return f"{'yes' if padding['exact'] else 'no'} ({padding['difference']:.1e})"


def memory_table(memory: dict[str, Any]) -> str:
    """Peak memory by length, one line per operator and mode."""
    points = memory["points"]
    lengths = sorted({point["length"] for point in points})
    lines: dict[tuple[str, bool, str], dict[int, str]] = {}
    for point in points:
        line = lines.setdefault((point["name"], point["causal"], point["mode"]), {})
        peak = point.get("peak_bytes")
        line[point["length"]] = (
            point["error"] if peak is None else f"{mebibytes(peak)} ({peak / point['length']:,.0f})"
        )
    rows = [
        [name, "causal" if causal else "bidirectional", mode, *[line.get(length, "–") for length in lengths]]
        for (name, causal, mode), line in lines.items()
    ]
    return table(["operator", "direction", "mode", *[f"N={length}" for length in lengths]], rows)


def decode_table(decode: dict[str, Any]) -> str:
    """Time of a step and size of the state by context."""
    steps = decode["steps_in_a_row"]
    rows = []
    for decoder in decode["decoders"]:
        seconds = decoder.get("seconds", {})
        error = max(decoder["check"]["errors"].values())
        for context, size in sorted(decoder["state_bytes"].items(), key=lambda item: int(item[0])):
            times = seconds.get(context)
            step = "–" if times is None else f"{median_seconds(times) / steps * 1e3:.3f}"
            rows.append(
                [decoder["name"], f"{int(context):,}", step, f"{size:,}", f"{error:.1e}", decoder["error"] or ""]
            )
    return table(["decoder", "context", "ms per step", "bytes of state", "largest error", "why it has no time"], rows)
