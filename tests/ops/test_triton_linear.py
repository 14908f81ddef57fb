"""The Triton kernels: against the oracle (interpreted where there is no GPU), and compiled for the GPUs we name."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import triton
from filelock import FileLock
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hf_effattn.models import triton_launch, triton_operators
from hf_effattn.models.backend_table import resolve_backend
from hf_effattn.models.base_operators import TRITON_WIDTH
from hf_effattn.models.ops_linear import LINEAR_ATTENTION
from hf_effattn.models.triton_kernels import KERNELS
from hf_effattn.models.triton_launch import Architecture
from tests.numerics import TOLERANCE
from tests.ops.triton_cases import (
    CASES,
    CHECKS,
    DEVICE,
    triton_linear_attention,
    triton_linear_attention_step,
)


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def errors(tmp_path_factory, request):
    """What `tests.ops.triton_cases` prints, asked for once in all the processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if hasattr(request.config, "workerinput") else folder
    answer = folder / "triton_cases.json"
    with FileLock(f"{answer}.lock"):
        if not answer.exists():
            environment = os.environ | {"TRITON_CACHE_DIR": str(folder / "triton_cache")}
            if DEVICE == "cpu":
                environment["TRITON_INTERPRET"] = "1"
            command = [sys.executable, "-m", "tests.ops.triton_cases"]
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            answer.write_text(run.stdout)
    return json.loads(answer.read_text())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_oracle(errors, case):
    allowed = TOLERANCE[case.dtype]
    assert {name: error for name, error in errors[str(case)].items() if not error <= allowed} == {}


@pytest.mark.parametrize("name", CHECKS)
def test_keeps_the_contract_in(errors, name):
    assert {what: error for what, error in errors[name].items() if not error <= TOLERANCE[torch.float32]} == {}


#: Where a kernel has to fit: the shared memory of one program in KiB (the smallest chip of that architecture).
GPUS = {
    GPUTarget("cuda", 80, 32): Architecture("sm80", 99),
    GPUTarget("cuda", 90, 32): Architecture("sm90", 227),
    GPUTarget("cuda", 100, 32): Architecture("sm100", 227),
    GPUTarget("hip", "gfx942", 64): Architecture("rocm", 64),
}
A100, H100, B200, MI300 = GPUS

#: What a thread may keep in memory: a few numbers, which stay in the first cache.
FEW_BYTES = 32

#: Where TF32 operands spill more: these tiles have been run on an H100, against the oracle, and smaller ones have not.
RUN_ON_H100 = {torch.float16: 256, torch.float32: 1344}
DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "u8"}


def launches(monkeypatch, target, dtype, dim, causal, normalize):
    """The kernels of a forward and a backward pass with the arguments that they are launched with, not run."""
    recorded = []
    monkeypatch.setattr(
        triton_operators,
        "launch",
        lambda kernel, programs, device, constants, **arguments: recorded.append((kernel, constants, arguments)),
    )
    monkeypatch.setattr(triton_launch, "architecture", lambda device: GPUS[target])
    # So many that the tokens are divided into parts, which begin with sums.
    monkeypatch.setattr(triton_launch, "processors", lambda device: 128)
    shape = (2, 2048, 2, dim)
    query, key, value = (
        torch.ones(shape, dtype=dtype, requires_grad=True).transpose(1, 2) for _ in ("query", "key", "value")
    )
    mask, scale = torch.ones(2, 2048, dtype=torch.bool), torch.ones(2, 1, 2048, 1)
    options = {"causal": causal, "normalize": normalize, "key_mask": mask, "scale": scale}
    output, state = triton_linear_attention(query, key, value, **options)
    (output.sum() + state.sum()).backward()
    if causal:
        with torch.no_grad():
            one = [tensor[:, :, :1] for tensor in (query, key, value)]
            triton_linear_attention_step(*one, state, key_mask=mask[:, :1], normalize=normalize, scale=scale[:, :, :1])
    return recorded


def source_of(kernel, arguments):
    """A kernel with the types, constants and alignments that Triton derives from arguments at a launch."""
    function = KERNELS[kernel]
    signature, constants, alignments = {}, {}, {}

    def type_of(given, path, specialized):
        """The type of an argument; what is constant or aligned in it is noted down."""
        if given is None or (specialized and isinstance(given, int) and given == 1):
            constants[path] = given
            return "constexpr"
        if isinstance(given, torch.Tensor) or (specialized and isinstance(given, int) and given % 16 == 0):
            alignments[path] = [["tt.divisibility", 16]]
        if isinstance(given, torch.Tensor):
            return f"*{DTYPE_NAMES[given.dtype]}"
        return "fp32" if isinstance(given, float) else "i32"

    for index, parameter in enumerate(function.params):
        given = arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = given
        elif isinstance(given, tuple):
            signature[parameter.name] = tuple(type_of(part, (index, i), True) for i, part in enumerate(given))
        else:
            signature[parameter.name] = type_of(given, (index,), not parameter.do_not_specialize)
    return ASTSource(function, signature, constants, alignments)


def bytes_spilled(target, compiled):
    """Memory of its own that every thread needs because its registers do not suffice."""
    if target.backend == "hip":
        return int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", compiled.asm["amdgcn"])[1])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        command = [tool, "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])


@pytest.mark.parametrize(
    ("target", "dtype", "dim", "causal", "normalize"),
    [
        *((target, torch.float16, 64, True, True) for target in GPUS),
        *((target, torch.bfloat16, 128, True, True) for target in GPUS),
        *((target, torch.float32, 64, True, True) for target in (A100, MI300)),
        *((target, torch.float32, 128, True, True) for target in (H100, B200)),
        *((target, torch.bfloat16, 64, False, normalize) for target in (H100, MI300) for normalize in (False, True)),
    ],
    ids=str,
)
def test_compiles_and_fits(monkeypatch, tmp_path, target, dtype, dim, causal, normalize):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    seen = {}
    for kernel, constants, arguments in launches(monkeypatch, target, dtype, dim, causal, normalize):
        blocks = {name: value for name, value in constants.items() if name.isupper()}
        source = source_of(kernel, arguments | blocks)
        if source.hash() in seen:
            continue
        seen[source.hash()] = kernel
        options = {name: value for name, value in constants.items() if not name.isupper()}
        compiled = triton.compile(source, target=target, options=options)
        assert compiled.metadata.shared <= GPUS[target].memory * 1024, kernel
        allowed = RUN_ON_H100.get(dtype, FEW_BYTES) if target == H100 else FEW_BYTES
        assert bytes_spilled(target, compiled) <= allowed, kernel
    # The gradients of queries, keys and values, and what their sums and those of the outputs need.
    expected = {"sum": 2, "attend": 1, "gradient": 3, "weigh": 1}
    if causal:
        expected["step"] = 1
        if normalize:
            expected |= {"chunk": 2, "scan": 3}
    assert Counter(seen.values()) == expected


def test_refuses_what_it_cannot_serve(monkeypatch):
    def resolve(device, dtype):
        return resolve_backend(LINEAR_ATTENTION, "triton", torch.device(device), dtype)

    assert resolve("cuda", torch.bfloat16).name == "triton"
    with pytest.raises(RuntimeError, match="CUDA and ROCm"):
        resolve("cpu", torch.float32)
    with pytest.raises(RuntimeError, match=r"not torch\.float64"):
        resolve("cuda", torch.float64)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        resolve("cuda", torch.float32)


def test_wide_heads_and_float64_name_the_remedy():
    narrow, wide = torch.ones(1, 1, 4, 8), torch.ones(1, 1, 4, TRITON_WIDTH + 1)
    for arguments in ((wide, wide, narrow), (narrow, narrow, wide), (narrow.double(),) * 3):
        with pytest.raises(ValueError, match='use attention_backend="torch"'):
            triton_linear_attention(*arguments)


def test_without_triton_all_but_the_kernels_is_imported():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from hf_effattn.models import backend_triton, triton_autograd\n"
        "try:\n    from hf_effattn.models import triton_kernels\n"
        "except ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "pip install triton" in run.stdout, run.stderr
