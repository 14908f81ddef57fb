"""Write `RESULTS.md` and its plots from the results of the arena.

    python -m training_scripts.arena.report

The report says which results are still missing.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from training_scripts.arena import tables
from training_scripts.arena.claims import claims
from training_scripts.arena.measurements import read_measurements
from training_scripts.arena.plan import PLAN, Plan, read_plan
from training_scripts.arena.plots import write_plots
from training_scripts.arena.results import RESULTS
from training_scripts.arena.scores import ScoreTable, read_scores


REPORT = RESULTS.parent / "RESULTS.md"
PUBLISHED = Path(__file__).with_name("published.yaml")

INTRODUCTION = """\
# Results on the arena for CPUs

`python -m training_scripts.arena.report` writes this file from the results in `arena/`; `make arena` trains missing
runs and writes it again. All runs of a task have the same recipe, steps and data. The variants of this library also
have the same skeleton, so they differ only in attention (and in positions: the memory transformer counts them anew in
every segment of 32 tokens). Models of transformers have the same size and initial scale, but their own norms and
classifiers. A few trials with variants of this library chose the learning rate of each task; they are not recorded.
Of ten checkpoints, the one with the best validation accuracy is scored once on the test split.
Tasks and models are small. The figures compare variants with one another, and are not scores of Long Range Arena.
`pathfinder_tracing` takes the place of Pathfinder and asks about every pixel. In trials with one label per picture,
softmax (10 x 10 and 12 x 12 pixels) and filtered SimpleTRON (16 x 16) stayed at chance for all steps that fit in
minutes."""

TABLES = """\
## Test accuracy

In percent, mean ± standard deviation over the seeds {seeds}, then means over the tasks. In Recall every key stands
beside its value, so a filter of a few tokens joins the two by itself; a second mean leaves this task out.
{chance} marks an accuracy that is not significantly above the guesses: the lower ends of Wilson's intervals over the
test rows, averaged over the seeds, are not above them. A guess is the commonest label of the training rows, of all or
of those with the same cue (`python -m training_scripts.arena.guesses`). The cues:

{cues}

{main}

Models of transformers do not compare strictly. Besides norms and classifiers, they read pixels as tokens, a pair as
one sequence, and texts padded to the longest length; ours read pixels as numbers and the texts of a pair one by one.
Nystromformer adds a mask over all tokens to the scores of its landmarks, so it fails wherever a sequence is padded; it
convolves its values over 65 tokens, more than a sequence of Recall has. FNet takes no mask, and reads padding.

![learning curves](arena-learning.svg)

### Every seed

{seeds_table}

### What the variants are

{variants}

All models of this library also have {options}. Luna and ConvLuna differ from their authors' models: their norms stand
before the layers and not behind them, their memories have 16 cells and not 256, and classifiers read the mean of all
tokens and not a CLS. Feature maps have as many features as a head is wide, {head_width}. FAVOR+ keeps its first
frequencies, because it does not recover from a redraw before the next evaluation.

### What is trained

{settings}
{environment}

## What fails, and what padding does

{errors}

A text of 97 tokens is compared with the same text padded to 128, masked wherever a model takes a mask. The table has
the difference of the logits relative to the largest (`python -m training_scripts.arena.padding`):

{padding}"""

CLAIMS = """\
## The three claims

Differences of test accuracy between runs of the same seed, in percentage points, with the 95 % interval of their mean;
bold where the interval does not contain zero. The interval covers the choice of the seeds, by Student's t, and of the
test rows, as if two variants erred independently and a row had one label; so it is too wide rather than too narrow.
Undecided means unknown, not equal. Of so many pairs, one in twenty differs by chance, and pairs that share a variant
are not independent. The last row of a table averages over all its pairs.
Trained feature maps have some more parameters than fixed ones; the table of the variants says how many."""

MEMORY = """\
### How memories develop

The plot shows the mean cosine between the cells of a memory during training, averaged over seeds and layers (for the
memory transformer, behind its layers). A cosine of 1 means that all cells have one direction. The papers report that
memories without a filter degrade to this; theirs have 256 cells and train for far more steps. Here memories have 16
cells, those of the memory transformer 8.

![memory cosine](arena-memory.svg)"""

COSTS = """\
## Costs

Median time of a training step, all variants of a task side by side on {threads} thread{plural}
(`python -m training_scripts.arena.costs`), and peak memory beyond model, gradients and optimizer
(`python -m training_scripts.arena.memory`), on the first batch of a task:

{costs}

At these times, all training steps of the arena take {hours} hours of one core, without evaluations and start-up.

All runs are in float32, because all variants of a task have the same precision. The time of a step under autocast to
bfloat16, divided by that in float32 (median over rounds):

{bf16}

### At equal time

Best validation accuracy in percent, mean ± standard deviation over the seeds, at the time when the fastest variant has
made all its steps. In parentheses: the share of its own steps that a variant has made by then. A slower variant also
has fewer evaluations to choose the best from:

{equal_time}"""

NO_COSTS = """\
## Costs

Time and memory of a training step, and accuracy at equal time. Not measured yet."""

PUBLISHED_TEXT = """\
## Published figures, full scale

Test accuracy in percent, as later papers report it; x was not learnt. These figures do not compare with those above:
data, splits, sizes and budgets differ. Nor do all rows compare with one another: figures for Retrieval near 57 and
near 79 come from two code bases.

{published}

Runs that the notebooks of the papers' authors print (<https://github.com/vladyorsh/lra_efficient_transformers>;
kernels on ListOps stay as low as the Linear Transformer and the Performer above):

{authors}
"""


def render(plan: Plan, table: ScoreTable, measured: dict[str, Any]) -> str:
    """The whole report.

    Args:
        plan: the arena.
        table: the scores of its runs.
        measured: the result of `read_measurements`; each of its parts may be missing.
    """
    costs, padding, guesses = (measured.get(name, {}) for name in ("costs", "padding", "guesses"))
    done = sum(len(scores.outcomes) for scores in table.values())
    failed = sum(scores.failed for scores in table.values())
    state = f"{done} of {len(plan.runs())} runs are done"
    if failed:
        state += f", and {failed} have failed for the reasons below"
    parts = [
        INTRODUCTION,
        f"{state}.",
        TABLES.format(
            seeds=", ".join(map(str, plan.seeds)),
            chance=tables.CHANCE,
            main=tables.main_table(plan, table, guesses),
            cues=tables.cues_text(plan, guesses),
            variants=tables.variants_table(plan, table),
            options=" and ".join(f"`{name}={value}`" for name, value in plan.options.items()),
            head_width=" or ".join(map(str, sorted(head_widths(plan)))),
            seeds_table=tables.seeds_table(plan, table),
            settings=tables.settings_table(plan, table),
            environment=environment_of(table),
            errors=tables.errors_list(plan, table),
            padding=tables.padding_table(plan, padding) if padding else "Not measured yet.",
        ),
        CLAIMS,
    ]
    for claim in claims(plan):
        parts.append(
            f"### {claim.title}\n\n{tables.verdict(plan, table, claim, guesses)}\n\n"
            f"{tables.claim_table(plan, table, claim)}"
        )
    parts.append(MEMORY)
    threads = sorted({task["environment"]["torch_threads"] for task in costs.values()})
    parts.append(
        COSTS.format(
            threads=" or ".join(map(str, threads)),
            plural="" if threads == [1] else "s",
            costs=tables.costs_table(plan, costs),
            hours=f"{tables.core_hours(plan, costs):.1f}",
            bf16=tables.bf16_table(plan, costs),
            equal_time=tables.equal_time_table(plan, table, costs),
        )
        if costs
        else NO_COSTS
    )
    published, authors = tables.published_tables(PUBLISHED)
    parts.append(PUBLISHED_TEXT.format(published=published, authors=authors))
    return "\n\n".join(parts)


def head_widths(plan: Plan) -> set[int]:
    """The widths of the heads in the recipes."""
    sizes = [recipe["model_size"] for recipe in plan.tasks.values()]
    return {size["hidden_size"] // size["num_attention_heads"] for size in sizes}


def environment_of(table: ScoreTable) -> str:
    """A sentence about the machines and the code that the runs were made with; empty without runs."""
    found = {
        f"{entry['device']}, {entry['torch_threads']} thread a run, Python {entry['python']}, torch "
        f"{entry['versions']['torch']}, transformers {entry['versions']['transformers']}"
        for scores in table.values()
        for entry in (outcome["environment"] for outcome in scores.outcomes.values())
    }
    codes = [outcome["code"] for scores in table.values() for outcome in scores.outcomes.values()]
    known = len(set(codes) - {None})
    versions = f"{'one version' if known == 1 else f'{known} versions'} of the package's code"
    if unknown := codes.count(None):
        versions += f"; {unknown} of the runs do not record which"
    return f"\nMade on: {'; '.join(sorted(found))}; with {versions}." if found else ""


def main(arguments: list[str]) -> None:
    """Write the report and its plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--output", type=Path, default=REPORT, help="file of the report; plots are written beside it")
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    table = read_scores(plan, options.results)
    measured = read_measurements(plan, table, options.results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(render(plan, table, measured))
    write_plots(plan, table, options.output.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
