"""Write `RESULTS.md` and its plots from the results of the arena alone.

    python -m training_scripts.arena.report

Works with whatever results there are; what is missing is said to be missing.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from training_scripts.arena import tables
from training_scripts.arena.cells import Cells, read_cells
from training_scripts.arena.claims import claims
from training_scripts.arena.measurements import read_measurements
from training_scripts.arena.plan import PLAN, Plan, read_plan
from training_scripts.arena.plots import write_plots
from training_scripts.arena.results import RESULTS


REPORT = RESULTS.parent / "RESULTS.md"
PUBLISHED = Path(__file__).with_name("published.yaml")

INTRODUCTION = """\
# Results on the arena for CPUs

Written by `python -m training_scripts.arena.report` from the files in `arena/`; `make arena` trains what is missing
and writes it again. All runs of a task have the same recipe, steps and data. The variants of this library have the
same skeleton as well, so that only attention differs (with its place: the memory transformer counts positions anew in
every segment of 32 tokens); models of transformers have the same size and initial scale, but their own norms and
classifiers. Learning rates were chosen per task by a few trials with variants of this library, of
which there is no record here. The best checkpoint by validation accuracy, of ten, is scored once on the test split.
Tasks and models are small: these are comparisons within this table, and no scores of Long Range Arena. Pathfinder's
place has `pathfinder_tracing`, which asks about every pixel: in trials with one label for a picture, softmax (10 x 10
and 12 x 12 pixels) and SimpleTRON with filter (16 x 16) stayed at chance for all the steps that fit in minutes."""

TABLES = """\
## Test accuracy

In percent, mean ± standard deviation over the seeds {seeds}, then means over the tasks. In Recall every key stands
beside its value, and a filter of a few tokens joins the two by itself; so there is a mean without it.
{chance} marks what is not above the guesses: the lower ends of Wilson's intervals over the test rows, on average over
the seeds. Guesses say what is commonest in the training rows, of all or of those with the same cue
(`python -m training_scripts.arena.guesses`). The cues:

{cues}

{main}

Models of transformers do not compare strictly: beside norms and classifiers, they read pixels as tokens, a pair as one
sequence, and texts padded to the longest length, where ours read pixels as numbers and the texts of a pair one by one.
Nystromformer adds a mask of all tokens to the scores of its landmarks, and so fails wherever a sequence is padded; it
convolves its values over 65 tokens, more than a sequence of Recall has. FNet has no mask, and reads padding.

![learning curves](arena-learning.svg)

### Every seed

{seeds_table}

### What the variants are

{variants}

All models of this library have {options} as well. Luna and ConvLuna are not as their authors have them: their norms
stand before the layers and not behind, their memories have 16 cells and not 256, and classifiers read the mean of all
tokens and not a CLS. Feature maps have as many features as a head is wide, {head_width}. FAVOR+ keeps its first
frequencies: after new ones were drawn, the next evaluation came too soon for it to recover.

### What is trained

{settings}
{environment}

## What fails, and what padding does

{errors}

A text of 97 tokens alone, against the same with padding up to 128, masked wherever a model takes a mask (difference of
logits, relative to the largest; `python -m training_scripts.arena.padding`):

{padding}"""

CLAIMS = """\
## The three claims

Differences of test accuracy in percentage points, run by run with the same seed, with the 95 % interval of their mean;
bold where it leaves out zero. It is over the seeds, by Student's t, and over the test rows, as if two variants erred
independently and a row had one label, which makes it too wide rather than too narrow. Undecided means unknown, and not
equal. With so many pairs, one in twenty leaves out zero by chance, and pairs that share a variant are not independent;
the last row of a table is of all its pairs at once.
Trained feature maps have some more parameters than fixed ones; the table of the variants says how many."""

MEMORY = """\
### What becomes of memories

The mean cosine between the cells of a memory while it is trained, averaged over seeds and over layers (of the memory
transformer, after its layers): 1 is a memory of a single direction, to which memories without a filter degrade by the
papers. Those have 256 cells and train for far more steps; these have 16, and the memory transformer's 8.

![memory cosine](arena-memory.svg)"""

COSTS = """\
## Costs

Median time of a training step, all variants of a task side by side on {threads} thread{plural}
(`python -m training_scripts.arena.costs`), and the peak of memory beyond model, gradients and optimizer
(`python -m training_scripts.arena.memory`), on the first batch of a task:

{costs}

At these times, all training steps of the arena take {hours} hours of one core; evaluations and starts come on top.

All runs are in float32, as one precision has to serve all variants of a task. The time of a step under autocast to
bfloat16, over that in float32 (median over rounds):

{bf16}

### At equal time

Best validation accuracy in percent, mean ± standard deviation over the seeds, when the fastest variant has just made
all its steps, and the share of its own steps that a variant can make until then. The slower it is, the fewer of its
evaluations can be the best:

{equal_time}"""

NO_COSTS = """\
## Costs

Time and memory of a training step, and accuracy at equal time. Not measured yet."""

PUBLISHED_TEXT = """\
## Published figures, full scale

Test accuracy in percent, at second hand from later papers; x was not learnt. Not to be set beside the figures above:
other data, splits, sizes and budgets. Nor do all rows compare with one another: figures for Retrieval near 57 and near
79 come from two code bases.

{published}

Runs that the notebooks of the papers' authors print (<https://github.com/vladyorsh/lra_efficient_transformers>;
kernels on ListOps stay as low as the Linear Transformer and the Performer above):

{authors}
"""


def render(plan: Plan, cells: Cells, measured: dict[str, Any]) -> str:
    """The whole report.

    Args:
        plan: the arena.
        cells: the results of its runs.
        measured: what `read_measurements` gives; what is not measured may be missing.
    """
    costs, padding, guesses = (measured.get(name, {}) for name in ("costs", "padding", "guesses"))
    done = sum(len(cell.outcomes) for cell in cells.values())
    failed = sum(cell.failed for cell in cells.values())
    state = f"{done} of {len(plan.runs())} runs are done"
    if failed:
        state += f", and {failed} have failed, as told below"
    parts = [
        INTRODUCTION,
        f"{state}.",
        TABLES.format(
            seeds=", ".join(map(str, plan.seeds)),
            chance=tables.CHANCE,
            main=tables.main_table(plan, cells, guesses),
            cues=tables.cues_text(plan, guesses),
            variants=tables.variants_table(plan, cells),
            options=" and ".join(f"`{name}={value}`" for name, value in plan.options.items()),
            head_width=" or ".join(map(str, sorted(head_widths(plan)))),
            seeds_table=tables.seeds_table(plan, cells),
            settings=tables.settings_table(plan, cells),
            environment=environment_of(cells),
            errors=tables.errors_list(plan, cells),
            padding=tables.padding_table(plan, padding) if padding else "Not measured yet.",
        ),
        CLAIMS,
    ]
    for claim in claims(plan):
        parts.append(
            f"### {claim.title}\n\n{tables.verdict(plan, cells, claim, guesses)}\n\n"
            f"{tables.claim_table(plan, cells, claim)}"
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
            equal_time=tables.equal_time_table(plan, cells, costs),
        )
        if costs
        else NO_COSTS
    )
    published, authors = tables.published_tables(PUBLISHED)
    parts.append(PUBLISHED_TEXT.format(published=published, authors=authors))
    return "\n\n".join(parts)


def head_widths(plan: Plan) -> set[int]:
    """How wide the heads are that the recipes ask for."""
    sizes = [recipe["model_size"] for recipe in plan.tasks.values()]
    return {size["hidden_size"] // size["num_attention_heads"] for size in sizes}


def environment_of(cells: Cells) -> str:
    """Where the runs were made."""
    found = {
        f"{entry['device']}, {entry['torch_threads']} thread a run, Python {entry['python']}, torch "
        f"{entry['versions']['torch']}, transformers {entry['versions']['transformers']}"
        for cell in cells.values()
        for entry in (outcome["environment"] for outcome in cell.outcomes.values())
    }
    codes = [outcome["code"] for cell in cells.values() for outcome in cell.outcomes.values()]
    known = len(set(codes) - {None})
    told = f"{'one state' if known == 1 else f'{known} states'} of the package's code"
    if unknown := codes.count(None):
        told += f"; {unknown} of the runs do not say with which"
    return f"\nMade on: {'; '.join(sorted(found))}; with {told}." if found else ""


def main(arguments: list[str]) -> None:
    """Write the report and its plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--output", type=Path, default=REPORT, help="the report; plots are written beside it")
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    cells = read_cells(plan, options.results)
    measured = read_measurements(plan, cells, options.results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(render(plan, cells, measured))
    write_plots(plan, cells, options.output.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
