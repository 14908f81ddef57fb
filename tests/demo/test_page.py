"""The page: what its buttons do, and a visit with a browser."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
from gradio_client import Client

from hf_effattn.demo import answers, page, view
from tests.demo.making import BY_TYPE, DECODER, loaded


def buttons(*models):
    """What the buttons of a page do, by their names."""
    built = page.build_page(models)
    return {function.api_name: function.fn for function in built.fns.values()}


NASTY = '<img src=x onerror="alert(1)">'


def test_every_model_answers_and_texts_of_others_are_escaped():
    labels = {0: NASTY, 1: "fine"}
    classify = buttons(loaded("simpletron", name=NASTY, id2label=labels), loaded("luna"))["classify"]
    shown = classify("a text", "", False)
    assert shown.count("ea-card") == 2 + 1 and "7 tokens read" in shown
    refused = view.answers_cards([], {NASTY: NASTY})
    written = view.generated_text(view.Generated(NASTY, 1, 1, 1, 0))
    listed = view.models_list([loaded("simpletron", name=NASTY)])
    timed = view.times_table({NASTY: [(64, 0.1)]})
    for made in (shown, refused, written, listed, timed):
        assert "<img" not in made and "&lt;img" in made


def test_models_that_cannot_read_a_text_leave_the_answers_of_the_others(monkeypatch):
    warned = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **options: warned.append(message))
    classify = buttons(loaded("simpletron"), loaded("luna", max_position_embeddings=300))["classify"]
    shown = classify("x" * 100, "", False)
    assert "101 tokens read" in shown and "No answer: the text has 101 tokens" in shown
    (message,) = warned
    assert message.startswith("The text has 101 tokens, which are bytes here, and simpletron reads at most 80")
    with pytest.raises(gradio.Error, match="The text has 401 tokens"):
        classify("x" * 400, "", False)


def test_errors_of_any_kind_are_sentences(monkeypatch, caplog):
    presses = buttons(loaded("simpletron"), loaded("simpletron", DECODER, name="writer"))

    def fail(*arguments, **options):
        raise KeyError(NASTY)

    monkeypatch.setattr(answers, "classify", fail)
    monkeypatch.setattr(answers, "encode", fail)
    monkeypatch.setattr(answers, "measure_times", fail)
    monkeypatch.setattr(page.generation, "generate", fail)
    for press, arguments in (
        (presses["classify"], ("a", "", False)),
        (presses["look"], ("simpletron", "a", "", False)),
        (presses["times"], (lambda *progress, **more: None,)),
        (lambda *given: list(presses["generate"](*given)), ("writer", "a", 5, 1.0, False)),
    ):
        with pytest.raises(gradio.Error, match="This failed, and the log of the page says where: ") as caught:
            press(*arguments)
        assert NASTY not in str(caught.value) and not caught.value.print_exception
    assert caplog.text.count("the page could not answer") == 4


@pytest.mark.parametrize("model_type", BY_TYPE)
def test_what_a_model_looks_at_is_drawn_and_measured(model_type):
    look = buttons(loaded(model_type))["look"]
    figure, measured = look(model_type, "a text", "", False)
    assert figure.startswith('<figure class="ea-figure"><img src="data:image/png;base64,')
    assert f'alt="attention of {model_type}, layer by layer, for 7 tokens"' in figure
    assert (
        "No measures" in measured
        if model_type == "vanilla_transformer"
        else "layer 0" in measured or "memory" in measured
    )


def test_what_cannot_be_drawn_is_measured_all_the_same():
    found = loaded("simpletron", max_position_embeddings=600)
    figure, measured = buttons(found)["look"]("simpletron", "x" * 560, "", False)
    assert "No map: attention is drawn for texts of up to 512 tokens, and this one has 561" in figure
    assert "norm of the state" in measured


def test_times_are_drawn_with_their_numbers():
    times = buttons(loaded("simpletron"), loaded("luna", max_position_embeddings=20))["times"]
    figure, numbers = times(lambda *progress, **more: None)
    assert "data:image/png" in figure
    rows = re.findall(r'<tr><td class="ea-number">(\d+)</td>(.*?)</tr>', numbers)
    assert [length for length, _ in rows] == ["20", "64", "80"]
    assert ["–" in cells for _, cells in rows] == [True, True, True]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1 KiB"),
        (1500, "1.46 KiB"),
        (5 * 2**20, "5 MiB"),
        (2**45, "32,768 GiB"),
    ],
)
def test_sizes_are_said_in_their_unit(count, said):
    assert view.size(count) == said


def test_a_page_has_tabs_for_what_its_models_do():
    assert buttons(loaded("luna")).keys() == {"classify", "look", "times"}
    assert "generate" in buttons(loaded("simpletron", DECODER))
    with pytest.raises(ValueError, match="needs a model"):
        page.build_page([])


def test_a_page_is_served_and_asked_by_a_client():
    built = page.build_page([loaded("simpletron", DECODER)])
    address = page.serve(built, "127.0.0.1")
    try:
        client = Client(address, verbose=False)
        *_, (text, state) = client.submit("simpletron", "Once", 6, 0, False, api_name="/generate")
        assert 'class="ea-card ea-text"' in text and "after 10 tokens" in state
        with pytest.raises(Exception, match="reads at most 80"):
            client.predict("simpletron", "x" * 100, 6, 0, False, api_name="/generate")
    finally:
        built.close()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_a_visit_on_a_phone_with_the_keyboard_alone_and_no_network():
    pytest.importorskip("playwright", reason="a visit needs playwright (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("a visit needs a browser: apt install chromium")
    built = page.build_page([loaded("luna")])
    address = page.serve(built, "127.0.0.1")
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("visit.py")), address, CHROMIUM],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    finally:
        built.close()
