"""The command ``hf-effattn demo``."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..hub.commands import Also, exit_on_errors, say


if TYPE_CHECKING:
    import gradio

#: How many ports after one in use are tried, to name a free one in the error.
NEXT_PORTS = 100


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="checkpoint folders or names of repositories; by default the shipped checkpoint"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the page")] = 7860,
    host: Annotated[
        str, typer.Option(help="address to listen at; with 0.0.0.0 other computers reach the page")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser", help="open the page in the browser of this computer")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write a Space of the Hub to this folder, and start nothing")
    ] = None,
    run_foreign_code: Annotated[
        bool, typer.Option("--run-foreign-code", help="run code that is not of this package, without a sandbox")
    ] = False,
    also: Also = None,
) -> None:
    """Try checkpoints in the browser: classifiers with their attention and times, and decoders. Needs the demo extra.

    The page needs no network, and sends no data anywhere.
    """
    with exit_on_errors():
        from .export import export_space
        from .models import load_models
        from .page import build_page, serve

        if export is not None:
            if run_foreign_code:
                raise ValueError(
                    "a Space runs only the code of this package: --run-foreign-code cannot be combined with --export"
                )
            export_space(sources or [], export, also=also or ())
            say(f"{export} holds a Space; next: hf upload OWNER/NAME {export} --repo-type space")
            return
        check_port(host, port)
        models = load_models(sources or [], run_foreign_code=run_foreign_code, also=also or ())
        page = build_page(models)
        address = serve(page, host, port, browser)
    say(f"{', '.join(loaded.name for loaded in models)}: {address} (end with Ctrl+C)")
    _wait(page)


def _wait(page: "gradio.Blocks") -> None:
    page.block_thread()


def check_port(host: str, port: int) -> None:
    """Raise OSError if the page cannot listen at a port. The message names a free port."""
    try:
        _listen(host, port)
    except socket.gaierror as error:
        raise OSError(f"--host {host} is not an address of this computer: {error.strerror}") from error
    except PermissionError as error:
        raise OSError(
            f"port {port} needs the rights of an administrator: choose one from 1024 on with --port"
        ) from error
    except OSError as error:
        free = next((other for other in range(port + 1, min(port + NEXT_PORTS, 65536)) if _is_free(host, other)), None)
        remedy = "choose another with --port" if free is None else f"--port {free} is free"
        raise OSError(f"the page cannot use port {port} of {host} ({error.strerror}): {remedy}") from error


def _is_free(host: str, port: int) -> bool:
    try:
        _listen(host, port)
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            # Connections that have just ended do not block a port. Windows would also give out a port in use.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
