"""The ``hf-effattn`` command."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Annotated

import torch
import typer
from tabulate import tabulate

from .auto import backends
from .demo import commands as demo_commands
from .hub import commands
from .version import __version__


app = typer.Typer(no_args_is_help=True, add_completion=False)

#: Packages beside this one whose versions decide what can run.
PACKAGES = ("torch", "transformers", "triton", "kernels")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hf_effattn {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Efficient-attention models: what runs where, and how to share them."""


@app.command()
def doctor(
    device: Annotated[str, typer.Option(help="where the tensors are: cpu, cuda …")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64")] = "float32",
) -> None:
    """Say which backend runs every operator here, why not another one, and what would be faster.

    Compiles the CPU kernels if they are to run and are not there yet. Ends with status 1 if the fastest backend for
    the device cannot run, and with 2 if there is no such device here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise typer.BadParameter(f"{dtype!r} is not a floating-point dtype of torch", param_hint="--dtype")
    with commands.refusals():
        typer.echo(tabulate([*_versions(), *_machine()], tablefmt="plain"))
        table = backends(device, found)
    rows = [
        (operator if index == 0 else "", name, status)
        for operator, served in table.items()
        for index, (name, status) in enumerate(served.items())
    ]
    typer.echo(f"\nBackends for {dtype} on {device}, fastest first:\n")
    typer.echo(tabulate(rows, headers=("operator", "backend", "status"), tablefmt="simple"))
    advice = _advice(device, table)
    typer.echo("\n" + (advice or "The fastest backend of every operator runs."))
    raise typer.Exit(1 if advice else 0)


commands.register(app)
demo_commands.register(app)


def _check_device(device: str) -> None:
    """Refuse what torch does not know, and what this machine does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        # What follows the first sentence is about debugging torch itself.
        why = str(error).splitlines()[0].split(". ")[0]
        raise typer.BadParameter(f"there is no device {device!r} here: {why}", param_hint="--device") from error


def _advice(device: str, table: dict[str, dict[str, str]]) -> str:
    """What would make it faster; empty if nothing would."""
    wanted = "triton" if device.startswith("cuda") else "cpu"
    status = {operator: served[wanted] for operator, served in table.items() if wanted in served}
    missing = [f"{operator}: {wanted} does not run: {why}" for operator, why in status.items() if why != "chosen"]
    return "\n".join(missing)


def _versions() -> list[tuple[str, str]]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    found = [(name, importlib.metadata.version(name) if name in installed else "not installed") for name in PACKAGES]
    return [("hf_effattn", __version__), *found]


def _machine() -> list[tuple[str, str]]:
    from .kernels.build import BuildError, cache_folder

    try:
        folder = cache_folder()
        kept = f"{folder}: {len(list(folder.glob('*.so')))}"
    except BuildError as error:
        kept = f"none: {error}"
    return [
        ("python", platform.python_version()),
        ("processor", _processor()),
        ("threads", str(torch.get_num_threads())),
        ("compiled kernels", kept),
    ]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
