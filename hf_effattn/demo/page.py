"""Builds and serves the page: one tab for classifiers, one for decoders."""

import functools
import html
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..extras import needs_extra
from . import answers, generation, view
from .models import LoadedModel


with needs_extra("demo"):
    import gradio

    from ..diagnostics.figure import attention_figure

logger = logging.getLogger(__name__)

#: Handlers that run a model run one after the other: diagnostics set hooks on the model, and times must not disturb
#: one another.
ALONE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models"}

#: Fonts of the system that shows the page, so that no font is downloaded.
FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}

#: gradio shows the progress of a handler that has this object as a default argument.
PROGRESS = gradio.Progress()

ABOUT = """\
# Try efficient attention

Every text stays on the computer that runs this page."""


def build_page(models: Sequence[LoadedModel]) -> gradio.Blocks:
    """Return the page for these models. It is not started yet.

    Raises:
        ValueError: `models` is empty.
    """
    if not models:
        raise ValueError("the page needs a model to show")
    page: gradio.Blocks
    with gradio.Blocks(title="hf_effattn", analytics_enabled=False) as page:
        gradio.Markdown(ABOUT)
        gradio.HTML(view.models_list(models))
        if classifiers := {loaded.name: loaded for loaded in models if loaded.task == "classify"}:
            with gradio.Tab("Classify"):
                _classifier_tab(classifiers)
        if decoders := {loaded.name: loaded for loaded in models if loaded.task == "generate"}:
            with gradio.Tab("Generate"):
                _decoder_tab(decoders)
    return page


def serve(page: gradio.Blocks, host: str | None = None, port: int | None = None, browser: bool = False) -> str:
    """Start a page in the background, and return its address. ``page.close()`` stops it.

    Args:
        page: a page of `build_page`.
        host: the address to listen at. By default ``GRADIO_SERVER_NAME``, or else 127.0.0.1.
        port: the port to listen at. By default ``GRADIO_SERVER_PORT``, or else the first free port from 7860 on.
        browser: open the page in the browser of this computer.

    Raises:
        OSError: the port is in use.
    """
    address: str
    _, address, _ = page.queue().launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        theme=_theme(),
        css=view.STYLE,
        footer_links=[],
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address


def _theme() -> Any:
    """Return the colours and fonts of the page. The default colour of small texts has too little contrast."""
    base = gradio.themes.Default(primary_hue="indigo", **FONTS)
    return base.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler so that the page shows each of its errors as a sentence."""

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise _sentence(error) from error

    return answer


def _told_while(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wrap a generator in the same way."""

    @functools.wraps(function)
    def answer(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except Exception as error:
            raise _sentence(error) from error

    return answer


def _sentence(error: Exception) -> Exception:
    """Return the error that the page shows. Unexpected errors are logged with their traceback."""
    if isinstance(error, gradio.Error):
        return error
    text = str(error)
    if not isinstance(error, ValueError):
        logger.error("the page could not answer", exc_info=error)
        text = f"this failed, and the log of the page says where: {text or type(error).__name__}"
    return gradio.Error(_toast(text), title="No answer", print_exception=False)


def _toast(text: str) -> str:
    """Return a sentence for a message of the page. Messages are HTML."""
    return html.escape(text[:1].upper() + text[1:].rstrip(".") + ".")


def _classifier_tab(models: dict[str, LoadedModel]) -> None:
    """Add a text box and the answers, and below them the sections for attention and times."""
    pairs = any(loaded.takes_pairs for loaded in models.values())
    with gradio.Row():
        with gradio.Column(min_width=300):
            text = gradio.Textbox(label="Text", lines=6, max_lines=20, placeholder="Type or paste a text")
            second = gradio.Textbox(label="Second text, for models that compare two", lines=4, visible=pairs)
            cut = gradio.Checkbox(label=answers.CUT)
            ask = gradio.Button("Classify", variant="primary")
        with gradio.Column(min_width=300):
            shown = gradio.HTML(view.note("The answers come here."))

    def classify(*given: Any) -> str:
        found, refused = _ask_all(models, *given)
        if not found:
            raise ValueError(next(iter(refused.values())))
        for why in refused.values():
            gradio.Warning(_toast(why), title="One model gives no answer")
        return view.answers_cards(found, refused)

    ask.click(_told(classify), [text, second, cut], shown, api_name="classify", **ALONE)
    _inside_section(models, [text, second, cut])
    _times_section(models)


def _ask_all(
    models: dict[str, LoadedModel], text: str, second: str, cut: bool
) -> tuple[list[answers.Answer], dict[str, str]]:
    """Return the answers, and the reason for every model that gives none."""
    found, refused = [], {}
    for name, loaded in models.items():
        try:
            found.append(answers.classify(loaded, text, second, cut))
        except ValueError as error:
            refused[name] = str(error)
    return found, refused


def _inside_section(models: dict[str, LoadedModel], given: list[Any]) -> None:
    """Add a section with a button that draws attention and measures the layers."""

    def look(name: str, *texts: Any) -> tuple[str, str]:
        loaded = models[name]
        inputs, tokens, _ = answers.encode(loaded, *texts)
        return _drawn(loaded, inputs, tokens), _measured(loaded, inputs)

    with gradio.Accordion("What does it look at?", open=False):
        gradio.Markdown(
            "Maps of attention, averaged over heads, with the singular values below: of a memory, how its cells read "
            "tokens (pack) and how tokens read its cells. A text of some hundred tokens is best."
        )
        chosen = gradio.Radio(list(models), value=next(iter(models)), label="Model", visible=len(models) > 1)
        button = gradio.Button("Show")
        figure, measured = gradio.HTML(), gradio.HTML()
    button.click(_told(look), [chosen, *given], [figure, measured], api_name="look", **ALONE)


def _drawn(loaded: LoadedModel, inputs: dict[str, Any], tokens: int) -> str:
    """Return the attention figure of a text, or the reason why there is none."""
    try:
        answers.check_map(loaded, tokens)
        figure = attention_figure(loaded.model, **inputs)  # type: ignore[arg-type]
    except ValueError as error:
        return view.note(f"No map: {error}.")
    return view.figure_image(figure, f"attention of {loaded.name}, layer by layer, for {tokens} tokens")


def _measured(loaded: LoadedModel, inputs: dict[str, Any]) -> str:
    """Return the table of measures of a text, or the reason why there is none."""
    try:
        rows, warned = answers.measures(loaded, inputs)
    except ValueError as error:
        return view.note(f"No measures: {error}.")
    numbers = [(place, meaning, f"{value:.4g}") for place, meaning, value in rows]
    return view.table(("where", "measure", "value"), numbers, numbers=(2,)) + "".join(map(view.note, warned))


def _times_section(models: dict[str, LoadedModel]) -> None:
    """Add a section with a button that times the models on this machine."""

    def measure(progress: gradio.Progress = PROGRESS) -> tuple[str, str]:
        times: dict[str, list[tuple[int, float]]] = {}
        for index, (name, loaded) in enumerate(models.items()):
            times[name] = []
            for point in answers.measure_times(loaded):
                times[name].append(point)
                progress((index, len(models)), desc=f"{name}: {point[0]:,} tokens")
        drawn = view.figure_image(view.times_figure(times), "time against length; the table below has the numbers")
        return drawn, view.times_table(times)

    with gradio.Accordion("How long does it take?", open=False):
        gradio.Markdown(
            "One text of random tokens, forward only, at lengths up to the model's last position: the median of "
            f"{answers.PASSES[0]} passes or more. "
            f"After {answers.PATIENCE:g} seconds for a model, longer texts are left out."
        )
        button = gradio.Button("Measure on this machine")
        figure, numbers = gradio.HTML(), gradio.HTML()
    button.click(_told(measure), None, [figure, numbers], api_name="times", **ALONE)


def _decoder_tab(models: dict[str, LoadedModel]) -> None:
    """Add a prompt, its options, the text while it is generated, and the size of the state."""

    def write(name: str, prompt: str, new_tokens: float, temperature: float, cut: bool) -> Iterator[tuple[str, str]]:
        for generated in generation.generate(models[name], prompt, int(new_tokens), temperature, cut):
            yield view.generated_text(generated), view.state_table(generated)

    with gradio.Row():
        with gradio.Column(min_width=300):
            chosen = gradio.Radio(list(models), value=next(iter(models)), label="Model", visible=len(models) > 1)
            prompt = gradio.Textbox(label="Text to go on from", lines=4, max_lines=20)
            new_tokens = gradio.Slider(1, 2000, 200, step=1, label="Tokens to write at most")
            temperature = gradio.Slider(
                0, 2, 0.8, step=0.05, label="Temperature", info="at 0 every token is the most probable one"
            )
            cut = gradio.Checkbox(label=answers.CUT, info="at their beginning")
            with gradio.Row():
                go = gradio.Button("Generate", variant="primary")
                stop = gradio.Button("Stop")
        with gradio.Column(min_width=300):
            text = gradio.HTML(view.note("The text comes here."))
            state = gradio.HTML()
    given = [chosen, prompt, new_tokens, temperature, cut]
    running = go.click(_told_while(write), given, [text, state], api_name="generate", **ALONE)
    stop.click(None, cancels=[running], queue=False, api_visibility="private")
