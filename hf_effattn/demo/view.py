"""Renders answers, figures and tables as HTML. Every text from a user or a checkpoint is escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from ..extras import needs_extra
from .answers import Answer
from .generation import Generated
from .models import LoadedModel


with needs_extra("demo"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

#: The largest number of labels that a card shows.
MOST_LABELS = 10

#: The style of the HTML below. The colours are those of the page's theme, light or dark.
STYLE = """
.gradio-container { width: 100% !important; max-width: 70rem !important; margin: 0 auto !important; }
.gradio-container .contain { width: 100%; min-width: 0; }
.ea-cards { display: grid; gap: 1rem; }
.ea-card { border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .75rem 1rem; }
.ea-card h3 { margin: 0 0 .25rem; font-size: 1rem; overflow-wrap: anywhere; }
.ea-note, .ea-card .ea-note { margin: .4rem 0; font-size: .9rem; }
.ea-card .ea-verdict { margin: .25rem 0; font-size: 1.25rem; overflow-wrap: anywhere; }
.ea-models { margin: 0; padding-left: 1.2rem; }
.ea-models li { overflow-wrap: anywhere; }
.ea-scroll { overflow-x: auto; max-width: calc(100vw - 7.5rem); }
.ea-table { width: 100%; border-collapse: collapse; margin: .25rem 0 !important; border: 0 !important; }
.ea-table tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.ea-table th, .ea-table td { padding: .3rem .8rem .3rem 0 !important; text-align: left; border: 0 !important; }
.ea-table th { font-weight: 600; }
.ea-card td { overflow-wrap: anywhere; }
.ea-table .ea-number { text-align: right !important; white-space: nowrap; font-variant-numeric: tabular-nums; }
.ea-table meter { width: 100%; min-width: 4rem; height: 1rem; }
.ea-figure { margin: 0; }
.ea-figure img { max-width: 100%; height: auto; border-radius: .5rem; }
.ea-text { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 6rem; }
"""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table. Cells are escaped; the columns whose indices are in `numbers` are aligned to the right."""

    def row(cells: Sequence[str], tag: str) -> str:
        styles = [' class="ea-number"' if index in numbers else "" for index in range(len(cells))]
        return "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True))

    head = f"<thead><tr>{row(headers, 'th')}</tr></thead>"
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="ea-scroll"><table class="ea-table">{head}<tbody>{body}</tbody></table></div>'


def note(text: str) -> str:
    """Return a remark as a paragraph."""
    return f'<p class="ea-note">{escape(text)}</p>'


def models_list(models: Sequence[LoadedModel]) -> str:
    """Return a list of the models with class, size, longest text and device."""
    items = [
        f"<li><strong>{escape(loaded.name)}</strong>: {escape(type(loaded.model).__name__)}, "
        f"{loaded.model.num_parameters():,} parameters, "
        f"{'texts of any length' if loaded.limit is None else f'texts of up to {loaded.limit:,} tokens'}, "
        f"on {escape(str(loaded.model.device))}</li>"
        for loaded in models
    ]
    return f'<ul class="ea-models">{"".join(items)}</ul>'


def answers_cards(answers: Sequence[Answer], refusals: Mapping[str, str]) -> str:
    """Return a card for every answer, and a card with the reason for every model without an answer."""
    cards = [_card(answer) for answer in answers]
    cards += [_framed(name, note(f"No answer: {why}.")) for name, why in refusals.items()]
    return f'<div class="ea-cards" role="status">{"".join(cards)}</div>'


def _framed(name: str, inside: str) -> str:
    return f'<section class="ea-card"><h3>{escape(name)}</h3>{inside}</section>'


def _card(answer: Answer) -> str:
    chosen = answer.shares
    if answer.kind == "number":
        verdict = ", ".join(f"{label}: {value:.4g}" if len(chosen) > 1 else f"{value:.4g}" for label, value in chosen)
        inside = f'<p class="ea-verdict">{escape(verdict)}</p>'
    else:
        right = chosen[:1] if answer.kind == "one" else [item for item in chosen if item[1] > 0.5]
        verdict = ", ".join(label for label, _ in right) or "none of the labels"
        bars = "".join(_bar(label, share) for label, share in chosen[:MOST_LABELS])
        inside = f'<p class="ea-verdict"><strong>{escape(verdict)}</strong></p>'
        inside += f'<table class="ea-table"><tbody>{bars}</tbody></table>'
        if len(chosen) > MOST_LABELS:
            inside += note(f"{len(chosen) - MOST_LABELS} labels that are less probable are not shown.")
    left_out = f", {answer.left_out:,} cut off" if answer.left_out else ""
    return _framed(answer.name, inside + note(f"{answer.tokens:,} tokens read{left_out}."))


def _bar(label: str, share: float) -> str:
    percent = f"{share:.1%}".replace("%", " %")
    meter = f'<meter min="0" max="1" value="{share:.4f}" aria-label="probability">{percent}</meter>'
    return f'<tr><td>{escape(label)}</td><td>{meter}</td><td class="ea-number">{percent}</td></tr>'


def milliseconds(seconds: float) -> str:
    """Return a duration in three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(count: int) -> str:
    """Return a number of bytes in a unit that fits."""
    power = min((max(count, 1).bit_length() - 1) // 10, 3)
    value = count / 1024**power
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{digits} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def figure_image(figure: Figure, text: str) -> str:
    """Return a figure as a picture; `text` describes it to screen readers."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    return f'<figure class="ea-figure"><img src="data:image/png;base64,{data}" alt="{escape(text)}"></figure>'


def times_figure(times: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw the milliseconds of a forward pass against the length, one line per model, on logarithmic axes."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(times.items(), "osD^vP*X" * len(times), strict=False):
        milli = [seconds * 1e3 for _, seconds in points]
        axes.plot([length for length, _ in points], milli, marker=marker, label=name)
    lengths = sorted({length for points in times.values() for length, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted(LogFormatter())
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30)
    axes.set_xlabel("tokens of the text")
    axes.set_ylabel("ms for one text")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def times_table(times: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return the numbers of `times_figure` as a table."""
    found = {name: dict(points) for name, points in times.items()}
    lengths = sorted({length for points in found.values() for length in points})
    rows = [
        (f"{length:,}", *(milliseconds(points[length]) if length in points else "–" for points in found.values()))
        for length in lengths
    ]
    return table(("tokens", *found), rows, numbers=range(len(found) + 1))


def generated_text(generated: Generated) -> str:
    """Return the text that was written so far."""
    return f'<div class="ea-card ea-text" role="log" aria-label="generated text">{escape(generated.text)}</div>'


def state_table(generated: Generated) -> str:
    """Return the size of a decoder's state beside that of a key-value cache, with remarks."""
    share = generated.state_bytes / max(1, generated.key_value_bytes)
    rows = [
        ("state of this model", size(generated.state_bytes)),
        ("key-value cache of the same depth and width", size(generated.key_value_bytes)),
        ("state / cache", f"{share:.3g}"),
    ]
    shown = table(("", f"after {generated.tokens:,} tokens"), rows, numbers=(1,))
    if generated.left_out:
        shown += note(f"{generated.left_out:,} tokens were cut off at the beginning of the prompt.")
    if generated.is_full:
        shown += note("The text stops at the last position of the model.")
    return shown
