"""The group "decode": the time of one step and the size of the state, by how much a decoder has seen before."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hf_effattn.models.base_map_layer import MapLayer
from hf_effattn.models.ops_linear import linear_attention, linear_attention_step
from hf_effattn.tokenization import VOCAB_SIZE

from ..measuring.timing import Runner, interleave
from .check import TOLERANCE, relative_error
from .oracles import linear_attention_oracle
from .problem import ELU, Problem
from .settings import Settings


#: Query, key and value of one token.
Token = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: Decoders that are small enough for their overhead to show.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "simpletron": ("simpletron", {}),
    "kernel_transformer, elu": ("kernel_transformer", {"feature_map": "elu"}),
}
MODEL_SIZE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}


def run_decode(settings: Settings) -> dict[str, Any]:
    """Time the operator's step and those of whole decoders."""
    decoders = [operator_steps(settings)]
    for name in MODELS:
        decoders.append(model_steps(name, settings))
    return {"steps_in_a_row": settings.decode_steps, "decoders": decoders}


def operator_steps(settings: Settings) -> dict[str, Any]:
    """`linear_attention_step` on the state that a prompt left."""
    feature_map = MapLayer(ELU)
    states, runners = {}, []
    for context in settings.decode_contexts:
        query, key, value, _ = Problem(context).inputs()
        state = linear_attention(query, key, value, causal=True, feature_map=feature_map)[1]
        states[context] = state
        token = (query[:, :, -1:], key[:, :, -1:], value[:, :, -1:])
        runners.append(Runner(str(context), _operator_call(token, state, feature_map, settings.decode_steps)))
    check = {"output": _operator_error(settings.check_length)}
    sizes = {context: state.nbytes for context, state in states.items()}
    return _measured("linear_attention_step", runners, settings, check, sizes)


def _operator_call(token: Token, state: torch.Tensor, feature_map: MapLayer, steps: int) -> Callable[[], None]:
    def call() -> None:
        running = state
        with torch.no_grad():
            for _ in range(steps):
                _, running = linear_attention_step(*token, running, feature_map=feature_map)

    return call


def _operator_error(length: int) -> float:
    """How far the step after a prompt is from the oracle of the whole sequence."""
    problem = Problem(length, causal=True)
    query, key, value, _ = problem.inputs()
    prompt = (query[:, :, :-1], key[:, :, :-1], value[:, :, :-1])
    last = (query[:, :, -1:], key[:, :, -1:], value[:, :, -1:])
    feature_map = MapLayer(ELU)
    state = linear_attention(*prompt, causal=True, feature_map=feature_map)[1]
    output, _ = linear_attention_step(*last, state, feature_map=feature_map)
    expected = linear_attention_oracle(problem, query.double(), key.double(), value.double())
    return relative_error(output, expected[:, :, -1:])


def model_steps(name: str, settings: Settings) -> dict[str, Any]:
    """One token at a time through a whole decoder, whose cache was filled by a prompt."""
    model_type, options = MODELS[name]
    torch.manual_seed(0)
    longest = max(settings.decode_contexts) + settings.decode_steps
    config = AutoConfig.for_model(
        model_type, **MODEL_SIZE, **options, max_position_embeddings=longest, is_decoder=True
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    runners, sizes = [], {}
    for context in settings.decode_contexts:
        ids = torch.randint(4, VOCAB_SIZE, (1, context), generator=torch.Generator().manual_seed(context))
        with torch.no_grad():
            cache = model.base_model(ids, use_cache=True).cache
        sizes[context] = _cache_bytes(cache)
        runners.append(_model_runner(str(context), model, cache, settings.decode_steps))
    check = {"logits": _model_error(model, min(settings.check_length, longest))}
    return _measured(name, runners, settings, check, sizes)


def _model_runner(name: str, model: PreTrainedModel, filled: Any, steps: int) -> Runner:
    token = torch.full((1, 1), 7)
    current: list[Any] = []

    def before() -> None:
        # A step writes into its cache; every call starts from what the prompt left.
        current[:] = [copy.deepcopy(filled)]

    def call() -> None:
        with torch.no_grad():
            for _ in range(steps):
                model(token, cache=current[0])

    return Runner(name, call, before)


def _model_error(model: PreTrainedModel, length: int) -> float:
    """How far the logits of a step are from those of the whole sequence read at once."""
    ids = torch.randint(4, VOCAB_SIZE, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(ids[:, :-1], use_cache=True).cache
        step = model(ids[:, -1:], cache=cache).logits
        whole = model(ids, use_cache=False).logits[:, -1:]
    return relative_error(step, whole)


def _cache_bytes(cache: Any) -> int:
    """Memory of every tensor that a cache holds."""
    tensors: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors[id(value)] = value.nbytes
        elif isinstance(value, dict):
            for part in value.values():
                visit(part)
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part)

    for layer in cache.layers:
        visit(vars(layer))
    return sum(tensors.values())


def _measured(
    name: str, runners: list[Runner], settings: Settings, errors: dict[str, float], sizes: dict[int, int]
) -> dict[str, Any]:
    """Time the runners if the check passed; the result says what failed otherwise."""
    tolerance = TOLERANCE["float32"]
    passed = all(error <= tolerance for error in errors.values())
    result: dict[str, Any] = {
        "name": name,
        "check": {"errors": errors, "tolerance": tolerance, "passed": passed, "length": settings.check_length},
        "state_bytes": {str(context): size for context, size in sizes.items()},
        "error": None if passed else f"refused: a step differs from the whole sequence by {errors}",
    }
    if passed:
        timings = interleave(runners, settings, settings.round_seconds, 0, name)
        result["seconds"] = timings.seconds
        result["error"] = "; ".join(f"{key}: {error}" for key, error in timings.errors.items()) or None
    return result
