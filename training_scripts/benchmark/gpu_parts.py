"""What `gpu.py` measures: each part yields rows of results, and runs in a process of its own."""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional


ROOT = Path(__file__).resolve().parents[2]

#: Relative errors (root mean square) above which an operator computes something else.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

#: Bytes per second that the memory of a card moves, by its datasheet.
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12, "B200": 8e12}

#: Where it runs: on the CPU, in Triton's interpreter, the script can be tried, but times nothing.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

#: Batch, heads, length and width of causal attention: the shapes that flash-linear-attention and Helion report.
CAUSAL = (
    (1, 96, 8192, 128),
    (2, 16, 16384, 128),
    (4, 16, 2048, 128),
    (4, 64, 4096, 128),
    (8, 32, 2048, 256),
    (8, 8, 1024, 64),
)
BIDIRECTIONAL = tuple((2, 16, length, 64) for length in (1024, 4096, 16384, 32768))

#: Layers, width and heads of the models whose training steps are timed, and batch and length of their inputs.
SIZES = {"4 layers of 256": (4, 256, 4), "BERT-base": (12, 768, 12)}
BATCHES = ((4, 4096), (1, 16384))

#: The same with ``--small``.
SMALL = ((1, 2, 64, 16),)

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def load_operators() -> None:
    """Import the package, or where that fails, make its operators importable without it."""
    try:
        import hf_effattn  # noqa: F401
    except ImportError:
        for name in [name for name in sys.modules if name.split(".")[0] == "hf_effattn"]:
            del sys.modules[name]
        for name in ("hf_effattn", "hf_effattn.models"):
            module = types.ModuleType(name)
            module.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = module


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference, divided by that of `expected`; inf where it is not finite."""
    if not torch.isfinite(actual).all():
        return float("inf")
    actual, expected = actual.detach().double(), expected.detach().double()
    difference, size = ((actual - expected).square().mean().sqrt(), expected.square().mean().sqrt())
    return float(difference / size) if size > 0 else float(difference)


def make_rows(batch: int, heads: int, length: int, features: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries and keys that are mapped by elu + 1, and values, stored as a model stores them."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(batch, length, heads, width, device=DEVICE).transpose(1, 2) for width in (features, features, dim)
    )
    return [tensor.to(dtype) for tensor in (functional.elu(query) + 1, functional.elu(key) + 1, value)]


def milliseconds(function: Callable[[], object]) -> dict[str, float]:
    """The median time of a call, and of its replay in a CUDA graph where it can be captured."""
    from triton.testing import do_bench

    if DEVICE == "cpu":
        function()
        return {}
    times: dict[str, Any] = {"ms": do_bench(function, warmup=10, rep=40, return_mode="median")}
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        times["graph ms"] = do_bench(graph.replay, warmup=10, rep=40, return_mode="median")
    except RuntimeError as error:
        times["graph"] = str(error).splitlines()[0][:120]
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in times.items()}


def with_gradients(attention: Attention, tensors: list[torch.Tensor]) -> Callable[[], object]:
    """A call that computes outputs and the gradients of `tensors`."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    gradient = torch.randn_like(leaves[2])
    return lambda: torch.autograd.grad(attention(*leaves), leaves, gradient)


# The parts. Each yields rows of results.


def check_cases(small: bool) -> list[tuple[Any, ...]]:
    """dtype, causal, normalize, length, features, dim, and whether with mask, scale and initial state."""
    if small:
        return [(torch.float32, True, True, 65, 16, 16, True), (torch.float16, False, False, 33, 16, 16, False)]
    shapes = (
        (1, 64, 64, True),
        (130, 64, 64, True),
        (1100, 128, 128, True),
        (300, 256, 256, True),
        (257, 40, 72, True),
    )
    forms = [(causal, normalize) for causal in (False, True) for normalize in (False, True)]
    return [
        (dtype, *form, *shape) for dtype in TOLERANCE for form in forms for shape in (*shapes, (65, 64, 64, False))
    ]


def check_one(case: tuple[Any, ...]) -> dict[str, float]:
    """Errors of output, state and all gradients of one case."""
    from hf_effattn.models.ops_linear import linear_attention
    from hf_effattn.models.ops_reference import reference_linear_attention

    dtype, causal, normalize, length, features, dim, everything = case
    tensors = make_rows(2, 3, length, features, dim, dtype)
    # A query that sees a single key reads v / (1 + eps / qk): its gradient is no measure unless eps is large.
    options: dict[str, Any] = {"causal": causal, "normalize": normalize, "eps": 0.1}
    if everything:
        mask = torch.rand(2, length, device=DEVICE) < 0.7
        mask[0, 0], mask[1] = True, False
        options |= {"key_mask": mask, "scale": torch.rand(2, 1, length, 1, device=DEVICE) + 0.5}
        tensors.append(torch.rand(2, 3, features, dim + normalize, device=DEVICE))
    weights = [
        torch.randn(2, 3, length, dim, device=DEVICE),
        torch.randn(2, 3, features, dim + normalize, device=DEVICE),
    ]

    def results(function: Callable[..., Any], inputs: list[torch.Tensor], **rest: Any) -> list[torch.Tensor]:
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        state = leaves[3] if everything else None
        outputs = function(*leaves[:3], initial_state=state, **options, **rest)
        loss = sum(
            (output * weight.to(output.dtype)).double().sum() for output, weight in zip(outputs, weights, strict=True)
        )
        return [*outputs, *torch.autograd.grad(loss, leaves)]

    actual = results(linear_attention, tensors, backend="triton")
    weights[0] = weights[0].to(dtype)
    expected = results(reference_linear_attention, [tensor.double() for tensor in tensors])
    names = ("output", "state", "query", "key", "value", "initial")
    return {name: relative_error(*pair) for name, pair in zip(names, zip(actual, expected, strict=True), strict=False)}


def part_check(small: bool, share: int, shares: int) -> Iterator[dict[str, Any]]:
    """Every form, dtype and width against the oracle; one of several processes, since compiling takes most of it."""
    for case in check_cases(small)[share::shares]:
        errors = check_one(case)
        names = ("causal", "normalize", "length", "features", "dim", "everything")
        dtype = str(case[0]).removeprefix("torch.")
        passed = all(error <= TOLERANCE[case[0]] for error in errors.values())
        yield {"dtype": dtype, **dict(zip(names, case[1:], strict=True)), "errors": errors, "passed": passed}


def contestants(causal: bool) -> dict[str, tuple[Attention, Attention | None]]:
    """Attentions and, where they are ours or linear, their oracles."""
    from hf_effattn.models.ops_linear import linear_attention
    from hf_effattn.models.ops_reference import reference_linear_attention

    def plain(function: Callable[..., Any], **options: Any) -> Attention:
        return lambda query, key, value: function(query, key, value, causal=causal, **options)[0]

    table: dict[str, tuple[Attention, Attention | None]] = {
        "simpletron": (
            plain(linear_attention, normalize=False, backend="triton"),
            plain(reference_linear_attention, normalize=False),
        ),
        "kernel, elu": (plain(linear_attention, backend="triton"), plain(reference_linear_attention)),
        "torch SDPA": (
            lambda query, key, value: functional.scaled_dot_product_attention(query, key, value, is_causal=causal),
            None,
        ),
    }
    return table


def flash_linear_attention() -> dict[str, tuple[Attention, Attention | None]]:
    """The same for flash-linear-attention, which computes SimpleTRON's function without its scale."""
    from fla.ops.linear_attn import chunk_linear_attn

    from hf_effattn.models.ops_reference import reference_linear_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows = (tensor.transpose(1, 2) for tensor in (query, key, value))
        output: torch.Tensor = chunk_linear_attn(*rows, normalize=False, scale=1.0)[0].transpose(1, 2)
        return output

    def oracle(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return reference_linear_attention(query, key, value, causal=True, normalize=False)[0]

    return {"flash-linear-attention": (attend, oracle)}


def describe() -> dict[str, Any]:
    """The card and the versions."""
    import triton

    from hf_effattn.version import __version__

    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    python = sys.version.split()[0]
    versions = {"hf_effattn": __version__, "torch": torch.__version__, "triton": triton.__version__, "python": python}
    for package in ("transformers", "flash-linear-attention"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"card": card, "cuda": torch.version.cuda, **versions}


def floor(moved: int) -> float | None:
    """Milliseconds in which the memory of this card moves so many bytes; None for a card that is not listed."""
    card = describe()["card"]
    return next((round(moved / rate * 1e3, 4) for name, rate in BANDWIDTH.items() if name in card), None)


def time_shapes(
    shapes: tuple[tuple[int, int, int, int], ...], table: dict[str, tuple[Attention, Attention | None]]
) -> Iterator[dict[str, Any]]:
    """Times of every contestant, beside the time in which the memory can move inputs and outputs once."""
    for batch, heads, length, dim in shapes:
        tensors = make_rows(batch, heads, length, dim, dim, half())
        for name, (attention, oracle) in table.items():
            row: dict[str, Any] = {"shape": [batch, heads, length, dim], "name": name}
            try:
                yield row | time_attention(attention, oracle, tensors)
            except Exception as error:
                yield row | {"failure": f"{type(error).__name__}: {error}"[:300]}
        del tensors
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def time_attention(attention: Attention, oracle: Attention | None, tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Times, the floors of the memory, and the error on the beginning of one head."""
    row: dict[str, Any] = {}
    if oracle is not None:
        beginning = [tensor[:1, :1, :2048] for tensor in tensors]
        row["error"] = relative_error(attention(*beginning), oracle(*(tensor.double() for tensor in beginning)))
    size = tensors[0].numel() * tensors[0].element_size()
    calls = {"forward": lambda: attention(*tensors), "with gradients": with_gradients(attention, tensors)}
    # Inputs and output; then those again, the output's gradient, and three gradients.
    for moved, (what, call) in zip((4, 11), calls.items(), strict=True):
        row[what] = milliseconds(call)
        row[f"{what}, floor"] = floor(moved * size)
    return row


def half() -> torch.dtype:
    """bfloat16; in the interpreter, which cannot multiply it, float32."""
    return torch.bfloat16 if DEVICE == "cuda" else torch.float32


def part_causal(small: bool) -> Iterator[dict[str, Any]]:
    """Causal attention."""
    return time_shapes(SMALL if small else CAUSAL, contestants(causal=True))


def part_peers(small: bool) -> Iterator[dict[str, Any]]:
    """The causal shapes again by a library that takes long to tune itself, and has a part of its own for that."""
    return time_shapes(SMALL if small else CAUSAL, flash_linear_attention())


def part_bidirectional(small: bool) -> Iterator[dict[str, Any]]:
    """Attention of encoders."""
    return time_shapes(SMALL if small else BIDIRECTIONAL, contestants(causal=False))


def part_maps(small: bool) -> Iterator[dict[str, Any]]:
    """Trained maps: heads of 64, mapped to 64, 128 and 256 features by a gated layer."""
    from hf_effattn.models.base_map_layer import MapLayer
    from hf_effattn.models.ops_linear import linear_attention

    shape = (1, 2, 64, 64) if small else (2, 16, 16384, 64)
    for causal, features in [(causal, features) for causal in (False, True) for features in (64, 128, 256)]:
        tensors = make_rows(*shape[:3], 64, 64, half())
        weight, gate = (torch.randn(shape[1], 64, features, device=DEVICE).mul(0.1).to(half()) for _ in range(2))
        options = {"causal": causal, "feature_map": MapLayer("softplus", weight, None, gate)}

        def attention(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any] = options
        ) -> torch.Tensor:
            return linear_attention(query, key, value, backend="triton", **options)[0]

        yield {"features": features, "causal": causal} | time_attention(attention, None, tensors)


def part_decoding(small: bool) -> Iterator[dict[str, Any]]:
    """One step of 16 heads of 128, beside the time in which the memory can read and write the state."""
    from hf_effattn.models.ops_linear import linear_attention_step
    from hf_effattn.models.ops_reference import reference_linear_attention

    for batch in (1,) if small else (1, 8, 64):
        rows = make_rows(batch, 16, 1, 128, 128, half())
        state = torch.rand(batch, 16, 128, 129, device=DEVICE)
        exact = [tensor.double() for tensor in rows]
        expected, _ = reference_linear_attention(*exact, causal=True, initial_state=state.double())
        least = floor(2 * state.numel() * state.element_size())
        for backend in ("triton", "torch"):
            with torch.no_grad():
                step = functools.partial(linear_attention_step, rows[0], rows[1], rows[2], state, backend=backend)
                error = relative_error(step()[0], expected)
                yield {"batch": batch, "backend": backend, **milliseconds(step), "floor": least, "error": error}


def part_steps(small: bool) -> Iterator[dict[str, Any]]:
    """Whole training steps under bfloat16 autocast, of our models and of transformers' BERT."""
    from transformers import BertConfig, BertForSequenceClassification

    import hf_effattn

    def ours(name: str, **options: Any) -> Callable[..., torch.nn.Module]:
        config, model = (getattr(hf_effattn, name + end) for end in ("Config", "ForSequenceClassification"))
        return lambda **sizes: model(config(num_labels=2, pooling="mean", **sizes, **options))

    models = {
        "softmax, same skeleton": ours("VanillaTransformer"),
        "simpletron": ours("SimpleTron"),
        "kernel, elu": ours("KernelTransformer", feature_map="elu"),
        "kernel, glu": ours("KernelTransformer", feature_map="glu"),
        "transformers BERT": lambda **sizes: BertForSequenceClassification(BertConfig(**sizes)),
    }
    for size, (layers, width, heads) in {"tiny": (1, 32, 2)}.items() if small else SIZES.items():
        for batch, length in ((2, 64),) if small else BATCHES:
            for name, build in models.items():
                row: dict[str, Any] = {"size": size, "batch": batch, "length": length, "name": name}
                try:
                    row |= time_step(build, batch, length, layers, width, heads)
                except Exception as error:
                    row["failure"] = f"{type(error).__name__}: {error}"[:300]
                yield row
                if DEVICE == "cuda":
                    torch.cuda.empty_cache()


def time_step(
    build: Callable[..., torch.nn.Module], batch: int, length: int, layers: int, width: int, heads: int
) -> dict[str, Any]:
    """Milliseconds, tokens a second and peak memory of a step with AdamW, and what it did to the loss."""
    torch.manual_seed(0)
    model = build(
        vocab_size=1000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=length + 2,
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(10, 1000, (batch, length), device=DEVICE)
    labels = torch.arange(batch, device=DEVICE) % 2
    losses = []

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda"):
            loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    for _ in range(3):
        step()
    change = [round(float(loss), 4) for loss in losses]
    if DEVICE == "cpu":
        return {"loss": change}
    torch.cuda.reset_peak_memory_stats()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        step()
    end.record()
    torch.cuda.synchronize()
    elapsed = start.elapsed_time(end) / 5
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {
        "ms": round(elapsed, 2),
        "tokens/s": round(batch * length / elapsed * 1e3),
        "peak GiB": round(peak, 2),
        "loss": change,
    }


PARTS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "check": part_check,
    "causal": part_causal,
    "bidirectional": part_bidirectional,
    "maps": part_maps,
    "decoding": part_decoding,
    "steps": part_steps,
    "peers": part_peers,
}
