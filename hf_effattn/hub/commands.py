"""The commands of ``hf-effattn`` that take a checkpoint to the Hub: export, verify, push."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

from ..terminal import printable
from ..version import __version__


Folder = Annotated[Path, typer.Argument(help="folder of a checkpoint with its code")]
RunForeignCode = Annotated[
    bool,
    typer.Option(
        "--run-foreign-code", help="run code that is not of this package, in a sandbox if the system has one"
    ),
]
Also = Annotated[
    list[str] | None, typer.Option(help="a further file that belongs to the checkpoint; may be given several times")
]
TimeLimit = Annotated[float, typer.Option(min=1, help="seconds that the clean process may take")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (export, verify, push):
        app.command()(command)


def export(
    source: Annotated[str, typer.Argument(help="a checkpoint folder, or the name of a repository")],
    folder: Annotated[Path, typer.Argument(help="folder to write to; an earlier export there is replaced")],
    revision: Annotated[str | None, typer.Option(help="commit, branch or tag of the repository")] = None,
) -> None:
    """Write a checkpoint that carries its own code: the code of this version of the package, whatever SOURCE has.

    SOURCE needs weights and config, and the tokenizer or image processor if the model has one. A model card is not
    copied.
    """
    from .export import export_checkpoint
    from .loading import find_folder, head_classes, load_checkpoint, load_image_processor

    with exit_on_errors():
        found = find_folder(source, revision)
        family, auto_classes = head_classes(found)
        if len(auto_classes) != 1:
            raise ValueError(
                f"{source} records {len(auto_classes)} heads, {auto_classes}; a checkpoint has exactly one"
            )
        checkpoint = load_checkpoint(found, family, auto_classes[0])
        processor = checkpoint.tokenizer or load_image_processor(found)
        export_checkpoint(checkpoint.model, processor, folder)
    say(f"{folder} holds a {type(checkpoint.model).__name__} with its code; next: hf-effattn verify {folder}")


def verify(
    folder: Folder,
    run_foreign_code: RunForeignCode = False,
    also: Also = None,
    time_limit: TimeLimit = 600,
) -> None:
    """Audit a checkpoint's files, then load it in a clean offline process and compare its logits with the package's.

    Code runs only if it equals the code of this package. If the checkpoint is refused, the command says why, and ends
    with status 1.
    """
    from .verify import verify_folder

    with exit_on_errors():
        found = verify_folder(folder, run_foreign_code=run_foreign_code, also=also or (), time_limit=time_limit)
    package, audit = f"hf_effattn {__version__}", found.audit
    if audit.code:
        say(tabulate(audit.code.items(), headers=("code", "SHA-256"), tablefmt="simple"))
        foreign = f"all but {', '.join(audit.foreign)}" if audit.foreign else "all of it"
        say(f"\nthe code of {package}: {foreign}")
    else:
        say(f"the checkpoint has no code: it loads only where {package} is installed")
    say(f"weights: {', '.join(audit.weights)}")
    for auto_class, difference in found.differences.items():
        say(f"{auto_class}: largest difference of the logits {difference:.3g}")


def push(
    folder: Folder,
    repository: Annotated[str, typer.Argument(help="owner/name; created if it does not exist")],
    private: Annotated[
        bool | None, typer.Option(help="visibility of a new repository; an existing repository must have it already")
    ] = None,
    revision: Annotated[str, typer.Option(help="branch to push to")] = "main",
    message: Annotated[str | None, typer.Option(help="commit message")] = None,
    run_foreign_code: RunForeignCode = False,
    also: Also = None,
    time_limit: TimeLimit = 600,
) -> None:
    """Verify a checkpoint, then publish the verified files as one commit.

    The token comes from HF_TOKEN or from `hf auth login`. The command prints how to load exactly what it pushed.
    """
    from .push import push_checkpoint

    with exit_on_errors():
        commit = push_checkpoint(
            folder,
            repository,
            private=private,
            revision=revision,
            message=message,
            run_foreign_code=run_foreign_code,
            also=also or (),
            time_limit=time_limit,
        )
    say(f'from_pretrained("{repository}", revision="{commit}", trust_remote_code=True)')


def say(text: str, error: bool = False) -> None:
    """Print text that may hold names from a checkpoint; control codes for the terminal are escaped."""
    typer.echo(printable(text), err=error)


@contextmanager
def exit_on_errors() -> Iterator[None]:
    """Turn errors into a message and exit status 1: refused checkpoints, failures of files, network or libraries."""
    try:
        yield
    except (ModuleNotFoundError, ValueError, OSError, RuntimeError) as error:
        say(f"refused: {error}" if isinstance(error, ValueError) else f"failed: {error}", error=True)
        raise typer.Exit(1) from error
    except Exception as error:
        # Libraries raise errors of their own types. Python's development mode shows the traceback.
        if sys.flags.dev_mode:
            raise
        where = f"; `python -X dev -m hf_effattn {' '.join(sys.argv[1:])}` shows where"
        say(f"failed: {type(error).__name__}: {error}{where}", error=True)
        raise typer.Exit(1) from error
