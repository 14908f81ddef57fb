"""What `test_triton_linear` asks of the Triton kernels: ``python -m tests.ops.triton_cases`` answers in JSON.

A process of its own, because Triton decides at its import whether kernels are compiled or interpreted on the CPU.
"""

import functools
import itertools
import json
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from hf_effattn.models import backend_torch, backend_triton, triton_operators
from hf_effattn.models.base_call import LinearAttentionCall
from hf_effattn.models.ops_reference import reference_linear_attention
from tests.numerics import relative_error
from tests.ops.test_ops_linear import EPS, FORMS, make_inputs, make_mask, outputs_and_gradients


def triton_linear_attention(query, key, value, **options):
    return backend_triton.triton_linear_attention(query, key, value, LinearAttentionCall(**options))


def triton_linear_attention_step(query, key, value, state, **options):
    call = LinearAttentionCall(causal=True, initial_state=state, **options)
    return backend_triton.triton_linear_attention_step(query, key, value, call)


def torch_linear_attention(query, key, value, **options):
    return backend_torch.torch_linear_attention(query, key, value, LinearAttentionCall(**options))


def torch_linear_attention_step(query, key, value, state, **options):
    call = LinearAttentionCall(causal=True, initial_state=state, **options)
    return backend_torch.torch_linear_attention_step(query, key, value, call)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    """One comparison with the oracle, with a mask whose last row is empty, a scale of each token, and a state."""

    causal: bool
    normalize: bool
    length: int
    dtype: torch.dtype = torch.float32
    features: int = 24
    dim: int = 40
    plain: bool = False
    eps: float = EPS

    def __str__(self):
        form = f"{'causal' if self.causal else 'full'}-{'normalized' if self.normalize else 'plain'}"
        options = ("bare-" if self.plain else "") + ("" if self.eps else "without-eps-")
        return f"{form}-{self.length}x{self.features}x{self.dim}-{options}{str(self.dtype).removeprefix('torch.')}"


CASES = [
    *(Case(*form, length) for form, length in itertools.product(FORMS, [1, 5, 64, 130])),
    *(Case(*form, 65, plain=True) for form in FORMS),
    *(Case(*form, 65, torch.float16, 64, 64) for form in FORMS),
    *(Case(causal, True, 65, eps=0.0) for causal in (False, True)),
    Case(True, True, 33, torch.float32, 160, 20),
    Case(False, True, 67, torch.float16, 20, 160),
    Case(False, False, 600, torch.float32, 16, 16),
    # Long enough for several parts.
    *(Case(True, normalize, 1100, torch.float32, 16, 24) for normalize in (False, True)),
]
if DEVICE == "cuda":
    # The interpreter multiplies the bits of bfloat16 numbers.
    CASES += [Case(*form, 300, torch.bfloat16, 64, 64) for form in FORMS]

CHECKS = {}


def check(function):
    """Register a check beside `CASES`; it returns the greatest relative error that it saw."""
    CHECKS[function.__name__] = function
    return function


def errors_of(case: Case) -> dict[str, float]:
    """Relative error of the output, the state and every gradient."""
    inputs = make_inputs(
        case.length, case.dtype, case.normalize, heads=2, features=case.features, dim=case.dim, state=not case.plain
    )
    inputs = {name: tensor.to(DEVICE) for name, tensor in inputs.items()}
    options = {"causal": case.causal, "normalize": case.normalize, "eps": case.eps}
    if not case.plain:
        mask = make_mask(case.length)
        mask[1] = False
        options |= {"key_mask": mask.to(DEVICE), "scale": torch.rand(2, 1, case.length, 1).to(DEVICE) + 0.5}

    def strided(query, key, value, **rest):
        query, key = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key))
        value = torch.nn.functional.pad(value, (0, 1))[..., :-1]
        return triton_linear_attention(query, key, value, **rest)

    oracle = {name: tensor.double() for name, tensor in inputs.items()}
    expected = outputs_and_gradients(reference_linear_attention, oracle, **options)
    actual = outputs_and_gradients(triton_linear_attention if case.plain else strided, inputs, **options)
    return {name: relative_error(tensor, expected[name]) for name, tensor in actual.items()}


def compare(inputs, function, other=torch_linear_attention, **options) -> float:
    torch.manual_seed(1)
    actual = outputs_and_gradients(function, inputs, **options)
    torch.manual_seed(1)
    expected = outputs_and_gradients(other, inputs, **options)
    return max(relative_error(tensor, expected[name]) for name, tensor in actual.items())


def small_inputs(length=70, **options):
    inputs = make_inputs(length, torch.float32, **{"heads": 1, **options})
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


@check
def dropout_of_the_state():
    options = {"normalize": False, "dropout_p": 0.5}
    if DEVICE == "cuda":  # random numbers follow the layout there
        torch.manual_seed(1)
        output, _ = triton_linear_attention(**small_inputs(normalize=False), **options)
        return float(torch.linalg.matrix_rank(output.flatten(0, 1)).max() > 5)
    return compare(small_inputs(normalize=False), triton_linear_attention, **options)


@check
def scales_that_are_numbers():
    return max(compare(small_inputs(), triton_linear_attention, causal=c, scale=0.3) for c in (False, True))


@check
def scales_that_learn():
    def with_scale(function, query, key, value, scale):
        return function(query, key, value, scale=scale, eps=EPS)

    inputs = small_inputs() | {"scale": torch.rand(1, 1, 1, device=DEVICE)}
    return compare(
        inputs,
        functools.partial(with_scale, triton_linear_attention),
        functools.partial(with_scale, torch_linear_attention),
    )


@check
def gradients_of_the_state_alone():
    def only_state(function, query, key, value):
        _, state = function(query, key, value, causal=True)
        return query * 1.0, state

    return compare(
        small_inputs(),
        functools.partial(only_state, triton_linear_attention),
        functools.partial(only_state, torch_linear_attention),
    )


@check
def gradients_without_strides():
    gradients, inputs = [], {name: tensor.requires_grad_() for name, tensor in small_inputs().items()}
    for function in (triton_linear_attention, torch_linear_attention):
        output, state = function(**inputs, eps=EPS)
        gradients.append(torch.autograd.grad(output.sum() + state.sum(), list(inputs.values())))
    return max(relative_error(actual, expected) for actual, expected in zip(*gradients, strict=True))


@check
def what_padding_holds():
    """Not even NaN gets out of it; a row of padding only reads zeros, and all gradients are finite."""
    inputs, mask = small_inputs(), make_mask(70).to(DEVICE)
    mask[1] = False
    spoilt = dict(inputs)
    for name in ("key", "value"):
        spoilt[name] = inputs[name].masked_fill(~mask[:, None, :, None], float("nan"))
    differences = []
    for causal in (False, True):
        options = {"causal": causal, "key_mask": mask}
        actual = outputs_and_gradients(triton_linear_attention, spoilt, **options)
        expected = outputs_and_gradients(triton_linear_attention, inputs, **options)
        differences += [relative_error(tensor, expected[name]) for name, tensor in actual.items()]
        differences += [float(actual[name][1].detach().abs().max()) for name in ("output", "state")]
    return max(differences)


@check
def checkpointing():
    def recomputed(**options):
        return checkpoint(triton_linear_attention, use_reentrant=False, **options)

    return compare(small_inputs(state=True), recomputed, causal=True, eps=EPS)


@check
def second_derivatives_name_what_serves():
    """For every input; first derivatives of a graph that is kept are as ever."""
    unnamed = 0
    for causal, name in itertools.product((False, True), ("query", "key", "value")):
        inputs = {key: tensor.requires_grad_() for key, tensor in small_inputs(5).items()}
        output, _ = triton_linear_attention(**inputs, causal=causal, eps=EPS)
        (gradient,) = torch.autograd.grad(output.pow(2).sum(), inputs[name], create_graph=True)
        try:
            gradient.sum().backward()
        except RuntimeError as error:
            unnamed += 'use attention_backend="torch"' not in str(error)
        else:
            unnamed += 1
    return float(unnamed)


@check
def an_empty_batch():
    inputs = {name: tensor[:0] for name, tensor in small_inputs().items()}
    actual = [outputs_and_gradients(triton_linear_attention, inputs, causal=causal) for causal in (False, True)]
    return float(any(t.numel() > 0 for result in actual for t in result.values()))


@check
def equal_bits_again():
    inputs = small_inputs(700, batch=1, heads=1)
    return compare(inputs, triton_linear_attention, triton_linear_attention)


@check
def compiled_with_its_gradients():
    compiled = torch.compile(triton_linear_attention, fullgraph=True, backend="aot_eager")
    return max(compare(small_inputs(), compiled, causal=causal, eps=EPS) for causal in (False, True))


@check
def one_graph_for_all_lengths():
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(triton_linear_attention, fullgraph=True, backend=count, dynamic=True)
    for length in (70, 130, 65):
        compiled(**small_inputs(length), causal=True)
    return float(len(graphs) != 1)


@check
def operators_that_keep_their_word():
    inputs = small_inputs()
    query, key, value = inputs["query"], inputs["key"], inputs["value"]
    mask = make_mask(70).to(DEVICE)
    state = triton_operators.total_sums(key, value, mask, True)
    shapes = (None, True, EPS, torch.float32)
    output, denominator, last = triton_operators.walk(query, key, value, mask, None, state, *shapes[1:])
    calls = {
        triton_operators.total_sums: (key, value, mask, True),
        triton_operators.sum_gradients: (state, key, value, mask, True),
        triton_operators.read: (query, state, *shapes),
        triton_operators.read_gradients: (output, query, state, None, output, denominator),
        triton_operators.walk: (query, key, value, mask, None, state, *shapes[1:]),
        triton_operators.walk_gradients: (
            output, last, query, key, value, mask, None, state, output, denominator,
        ),
        triton_operators.step: (query[:, :, :1], key[:, :, :1], value[:, :, :1], state, mask[:, :1], *shapes),
    }  # fmt: skip
    for operator, arguments in calls.items():
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    return 0.0


@check
def steps():
    """Steps from a state equal the causal form, for a row of padding too."""
    differences = []
    for normalize in (False, True):
        inputs = small_inputs(3, normalize=normalize, state=True)
        mask = torch.tensor([[True, False, True], [False] * 3], device=DEVICE)
        scale = torch.rand(2, 1, 3, 1, device=DEVICE) + 0.5
        options = {"normalize": normalize, "eps": EPS}
        output, last = torch_linear_attention(**inputs, causal=True, key_mask=mask, scale=scale, **options)
        state = inputs.pop("initial_state")
        for token in range(3):
            here = slice(token, token + 1)
            rows = [inputs[name][:, :, here] for name in ("query", "key", "value")]
            rest = {"key_mask": mask[:, here], "scale": scale[:, :, here], **options}
            with torch.no_grad():
                one, state = triton_linear_attention_step(*rows, state, **rest)
            differences.append(relative_error(one, output[:, :, here]))
        differences.append(relative_error(state, last))
    return max(differences)


@check
def a_step_that_learns():
    def step(function, query, key, value, initial_state):
        return function(query, key, value, initial_state, eps=EPS)

    inputs = small_inputs(1, state=True)
    functions = (triton_linear_attention_step, torch_linear_attention_step)
    return compare(inputs, *(functools.partial(step, function) for function in functions))


def main() -> None:
    # Memory that is read before it is written shows as NaN.
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    errors: dict[str, dict[str, float]] = {}
    for case in CASES:
        torch.manual_seed(0)
        errors[str(case)] = errors_of(case)
    for name, function in CHECKS.items():
        torch.manual_seed(0)
        try:
            errors[name] = {"error": function()}
        except Exception as error:
            errors[name] = {repr(error): float("inf")}
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
