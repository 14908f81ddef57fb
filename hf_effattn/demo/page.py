"""The page: a tab for classifiers, a tab for decoders."""

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

#: What runs a model waits for what runs another one: hooks are set on models, and times are taken.
ALONE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models"}

#: The fonts of the system that shows the page: nothing is fetched.
FONTS: dict[str, Any] = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}

#: How far a function has come; gradio finds it among the defaults of the function's arguments.
PROGRESS = gradio.Progress()

ABOUT = """\
# Try efficient attention

Every text stays on the computer that runs this page."""


def build_page(models: Sequence[LoadedModel]) -> gradio.Blocks:
    """The page for some models, not started yet.

    Raises:
        ValueError: there are no models.
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
    """Start a page, and give its address; it is served until its process ends or ``page.close()``.

    Args:
        page: of `build_page`.
        host: the address to listen at; that of gradio's environment variables, or this computer alone.
        port: the port to listen at; that of gradio's environment variables, or a free one from 7860 on.
        browser: whether to open it in the browser of this computer.

    Raises:
        OSError: the port is taken.
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
    """The colours and fonts of the page, whose paler texts are dark enough to be read."""
    base = gradio.themes.Default(primary_hue="indigo", **FONTS)
    return base.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose errors the page shows as a sentence; what nobody expected is also logged with its place."""

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise _sentence(error) from error

    return answer


def _told_while(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for a function that gives one answer after the other."""

    @functools.wraps(function)
    def answer(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except Exception as error:
            raise _sentence(error) from error

    return answer


def _sentence(error: Exception) -> Exception:
    if isinstance(error, gradio.Error):
        return error
    text = str(error)
    if not isinstance(error, ValueError):
        logger.error("the page could not answer", exc_info=error)
        text = f"this failed, and the log of the page says where: {text or type(error).__name__}"
    return gradio.Error(_toast(text), title="No answer", print_exception=False)


def _toast(text: str) -> str:
    """A sentence for a message of the page, which reads HTML."""
    return html.escape(text[:1].upper() + text[1:].rstrip(".") + ".")


def _classifier_tab(models: dict[str, LoadedModel]) -> None:
    """Text in, answers out; below, what one of the models looks at, and the times of all."""
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
    """The answers of those models that give one, and why the others give none."""
    found, refused = [], {}
    for name, loaded in models.items():
        try:
            found.append(answers.classify(loaded, text, second, cut))
        except ValueError as error:
            refused[name] = str(error)
    return found, refused


def _inside_section(models: dict[str, LoadedModel], given: list[Any]) -> None:
    """The attention map or the weights of a memory, and the measures, at the press of a button."""

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
    """The figure of a text, or why there is none."""
    try:
        answers.check_map(loaded, tokens)
        figure = attention_figure(loaded.model, **inputs)  # type: ignore[arg-type]
    except ValueError as error:
        return view.note(f"No map: {error}.")
    return view.figure_image(figure, f"attention of {loaded.name}, layer by layer, for {tokens} tokens")


def _measured(loaded: LoadedModel, inputs: dict[str, Any]) -> str:
    """The table of the measures of a text, or why there is none."""
    try:
        rows, warned = answers.measures(loaded, inputs)
    except ValueError as error:
        return view.note(f"No measures: {error}.")
    numbers = [(place, meaning, f"{value:.4g}") for place, meaning, value in rows]
    return view.table(("where", "measure", "value"), numbers, numbers=(2,)) + "".join(map(view.note, warned))


def _times_section(models: dict[str, LoadedModel]) -> None:
    """Times against length, measured on this machine when they are asked for."""

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
    """A prompt in, text out as it comes, and the size of the state."""

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
