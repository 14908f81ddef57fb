"""Check and time the Triton kernels on the GPU that is there, in some four minutes on an H100.

    python training_scripts/benchmark/gpu.py [--output FOLDER] [--parts check,causal,...]

It needs a checkout, torch and Triton, and no installation: where the package itself cannot be imported (another
transformers, say), its operators are loaded alone, and the part ``steps``, which trains whole models, is recorded as
failed. Each part runs in a process of its own, since a fault on the GPU ends a process; what fails is recorded, and
the rest goes on. Times are medians, with the error of the output against a float64 oracle beside them, also as they
are when a CUDA graph replays them, without the time that Python needs to launch kernels.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "training_scripts" / "results"

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
    sys.path.insert(0, str(ROOT))
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
    if causal:
        try:
            from fla.ops.linear_attn import chunk_linear_attn
        except Exception as error:
            print(f"flash-linear-attention is left out: {error!r}", file=sys.stderr)
            return table

        def fla(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            rows = (tensor.transpose(1, 2) for tensor in (query, key, value))
            return chunk_linear_attn(*rows, normalize=False, scale=1.0)[0].transpose(1, 2)

        table["flash-linear-attention"] = (fla, plain(reference_linear_attention, normalize=False))
    return table


def floor(moved: int) -> float | None:
    """Milliseconds in which the memory of this card moves so many bytes; None for a card that is not listed."""
    card = describe()["card"]
    return next((round(moved / rate * 1e3, 4) for name, rate in BANDWIDTH.items() if name in card), None)


def time_shapes(shapes: tuple[tuple[int, int, int, int], ...], causal: bool) -> Iterator[dict[str, Any]]:
    """Times of every contestant, beside the time in which the memory can move inputs and outputs once."""
    for batch, heads, length, dim in shapes:
        tensors = make_rows(batch, heads, length, dim, dim, half())
        for name, (attention, oracle) in contestants(causal).items():
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
    return time_shapes(SMALL if small else CAUSAL, causal=True)


def part_bidirectional(small: bool) -> Iterator[dict[str, Any]]:
    """Attention of encoders."""
    return time_shapes(SMALL if small else BIDIRECTIONAL, causal=False)


def part_maps(small: bool) -> Iterator[dict[str, Any]]:
    """Trained maps: heads of 64, mapped to 64, 128 and 256 features by a gated layer."""
    from hf_effattn.models.ops_linear import linear_attention
    from hf_effattn.models.ops_maps import MapLayer

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
}


def run_part(name: str, small: bool, arguments: list[int]) -> None:
    """In the process of a part: print each row as a line of JSON."""
    load_operators()
    try:
        for row in PARTS[name](small, *arguments):
            print(json.dumps(row), flush=True)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"[:500]
        print(json.dumps({"failure": failure, "where": traceback.format_exc()[-800:]}), flush=True)


@dataclasses.dataclass
class Report:
    """What a run found, in the order of its parts."""

    environment: dict[str, Any]
    parts: dict[str, list[dict[str, Any]]]

    @property
    def failures(self) -> list[str]:
        """What failed, in words."""
        rows = [(name, row) for name, part in self.parts.items() for row in part]
        return [f"{name}: {row}" for name, row in rows if "failure" in row or row.get("passed") is False]


def describe() -> dict[str, Any]:
    """The card and the versions."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    for package in ("transformers", "flash-linear-attention"):
        try:
            from importlib.metadata import version

            versions[package] = version(package)
        except ImportError:
            versions[package] = "not installed"
    return {"card": card, "cuda": torch.version.cuda, **versions}


def start(name: str, small: bool, *arguments: int) -> "subprocess.Popen[str]":
    """Start the process of a part."""
    command = [sys.executable, __file__, "--part", name, *(str(argument) for argument in arguments)]
    command += ["--small"] if small else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def collect(name: str, process: "subprocess.Popen[str]", limit: float) -> list[dict[str, Any]]:
    """The rows of a part; if its process died or took longer than `limit` seconds, a last one says so."""
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if process.returncode != 0:
        rows.append({"failure": f"the process of {name} ended with {process.returncode}"})
    return rows


def main() -> int:
    """Run the parts, write ``gpu-<card>-torch<version>-triton<version>.json``, and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of the result file")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument("--limit", type=float, default=90, help="seconds after which a part is stopped")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script itself")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part[0], options.small, [int(argument) for argument in options.part[1:]])
        return 0
    report = Report(describe(), {})
    wanted = options.parts.split(",")
    card = "-".join(report.environment["card"].split()[:2]).lower()
    versions = f"torch{report.environment['torch'].split('+')[0]}-triton{report.environment['triton']}"
    path = options.output / f"gpu-{card}-{versions}.json"
    options.output.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        shares = min(12, os.cpu_count() or 1) if name == "check" else 0
        processes = [start(name, options.small, share, shares) for share in range(shares)]
        processes = processes or [start(name, options.small)]
        report.parts[name] = [row for process in processes for row in collect(name, process, options.limit)]
        path.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        print(f"{name}: {len(report.parts[name])} rows", flush=True)
    print(f"written {path}", *report.failures, sep="\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
