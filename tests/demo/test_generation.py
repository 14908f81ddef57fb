"""What the page asks a decoder."""

import threading

import pytest
import torch

from hf_effattn.demo import generation
from tests.demo.making import BY_TYPE, DECODER, loaded


DECODERS = [model_type for model_type, family in BY_TYPE.items() if family.causal]


@pytest.mark.parametrize("model_type", DECODERS)
def test_the_text_that_comes_is_that_of_generate(model_type):
    found = loaded(model_type, DECODER)
    ids = found.tokenizer("Once", return_tensors="pt")
    expected = found.model.generate(**ids, max_new_tokens=20, do_sample=False)[0, 5:]
    *steps, last = generation.generate(found, "Once", new_tokens=20, temperature=0)
    assert last.text == found.tokenizer.decode(expected, skip_special_tokens=True)
    assert last.tokens == 5 + len(expected) - 1 and not last.is_full
    assert all(last.text.startswith(step.text) for step in steps)


def test_a_state_has_its_size_beside_that_of_keys_and_values():
    kept = {name: list(generation.generate(loaded(name, DECODER), "abc", 30, temperature=0)) for name in DECODERS}
    # Two layers with keys and values of 24 numbers in float32.
    for last in (steps[-1] for steps in kept.values()):
        assert last.key_value_bytes == 2 * 2 * 24 * 4 * last.tokens
    softmax, linear = kept["vanilla_transformer"], kept["simpletron"]
    assert softmax[-1].state_bytes == softmax[-1].key_value_bytes
    # Per layer three heads with 8 x 8 numbers, and one count of tokens in int64.
    assert {step.state_bytes for step in linear if step.tokens > 4} == {2 * (3 * 64 * 4 + 8)}


def test_a_prompt_is_cut_at_its_beginning_only_if_asked():
    found = loaded("simpletron", DECODER)
    with pytest.raises(ValueError, match="has 101 tokens, which are bytes here, and simpletron reads at most 80"):
        next(generation.generate(found, "x" * 100, 10))
    ids, left_out = generation.prompt_ids(found, "a" * 50 + "b" * 50, 10, cut=True)
    assert (ids[0], ids[1:], left_out) == (1, [101] * 19 + [102] * 50, 31)
    assert generation.prompt_ids(found, "x" * 100, 500, cut=True) == ([4 + ord("x")], 100)
    assert generation.prompt_ids(found, "", 10, cut=False) == ([1], 0)


def test_a_text_that_fills_the_positions_says_so():
    last = list(generation.generate(loaded("simpletron", DECODER), "x" * 75, 50, temperature=0))[-1]
    assert last.is_full and last.tokens == 80


def test_who_stops_to_listen_ends_the_generation():
    found = loaded("simpletron", DECODER, max_position_embeddings=3000)
    found.model.generation_config.eos_token_id = None
    passes = []
    found.model.register_forward_hook(lambda *call: passes.append(1))
    before = threading.active_count()
    running = generation.generate(found, "x", 2500)
    next(running)
    running.close()
    assert threading.active_count() == before
    assert len(passes) < 2400


def test_a_generation_that_fails_ends_with_its_reason(monkeypatch):
    found = loaded("simpletron", DECODER)

    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(found.model, "generate", fail)
    with pytest.raises(RuntimeError, match="the generation failed: no memory is left"):
        list(generation.generate(found, "x"))
