"""The ``hf-effattn`` command."""

import importlib.metadata
import platform
from typing import Annotated

import torch
import typer
from tabulate import tabulate

from .cards import command as card_command
from .demo import commands as demo_commands
from .hub import commands
from .machine import processor_name
from .operators import backends
from .presets import list_presets
from .version import __version__


app = typer.Typer(no_args_is_help=True, add_completion=False)

#: The versions of these packages decide which backends can run.
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
    """Efficient-attention models: show which backends run here, and share checkpoints."""


@app.command()
def doctor(
    device: Annotated[
        str, typer.Option(help="device of the tensors: cpu, cuda …; by default cuda if there is a GPU")
    ] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64")] = "float32",
) -> None:
    """Show which backend runs each operator on this machine, and why faster backends cannot run.

    Compiles the CPU kernels if they can run and are not compiled yet. The exit status is 1 if the fastest backend for
    the device cannot run, and 2 if this machine has no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise typer.BadParameter(f"{dtype!r} is not a floating-point dtype of torch", param_hint="--dtype")
    with commands.exit_on_errors():
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


@app.command()
def presets() -> None:
    """List the presets: named configs for `hf_effattn.preset` and the training scripts' --model_config."""
    rows = [(entry.name, entry.size, entry.source) for entry in list_presets()]
    typer.echo(tabulate(rows, headers=("preset", "size", "source"), tablefmt="simple", disable_numparse=True))


commands.register(app)
card_command.register(app)
demo_commands.register(app)


def _check_device(device: str) -> None:
    """Refuse a device that torch does not know or that this machine does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        # The first sentence says what is wrong; the others are about debugging torch.
        why = str(error).splitlines()[0].split(". ")[0]
        raise typer.BadParameter(f"there is no device {device!r} here: {why}", param_hint="--device") from error


def _advice(device: str, table: dict[str, dict[str, str]]) -> str:
    """Say why the fastest backend does not run; empty if it runs for every operator."""
    fastest = "triton" if device.startswith("cuda") else "cpu"
    status = {operator: served[fastest] for operator, served in table.items() if fastest in served}
    missing = [f"{operator}: {fastest} does not run: {why}" for operator, why in status.items() if why != "chosen"]
    return "\n".join(missing)


def _versions() -> list[tuple[str, str]]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    found = [(name, importlib.metadata.version(name) if name in installed else "not installed") for name in PACKAGES]
    return [("hf_effattn", __version__), *found]


def _machine() -> list[tuple[str, str]]:
    from .kernels.build import BuildError, cache_folder

    try:
        folder = cache_folder()
        compiled = f"{folder}: {len(list(folder.glob('*.so')))}"
    except BuildError as error:
        compiled = f"none: {error}"
    return [
        ("python", platform.python_version()),
        ("processor", f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"),
        ("threads", str(torch.get_num_threads())),
        ("compiled kernels", compiled),
    ]
