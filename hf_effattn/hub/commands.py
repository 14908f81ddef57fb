"""The commands of ``hf-effattn`` that take a checkpoint to the Hub: export, verify, push."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

from ..terminal import printable


Folder = Annotated[Path, typer.Argument(help="a checkpoint with its code")]
RunForeignCode = Annotated[
    bool, typer.Option("--run-foreign-code", help="run code that is not this package's, in a sandbox if there is one")
]
Also = Annotated[
    list[str] | None, typer.Option(help="a file of another name that belongs there; may be given several times")
]
TimeLimit = Annotated[float, typer.Option(min=1, help="seconds that the clean process may take")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (export, verify, push):
        app.command()(command)


def export(
    source: Annotated[str, typer.Argument(help="a checkpoint folder, or the name of a repository")],
    folder: Annotated[Path, typer.Argument(help="where to write; an earlier export there is replaced")],
    revision: Annotated[str | None, typer.Option(help="commit, branch or tag of the repository")] = None,
) -> None:
    """Write a checkpoint that carries its own code: that of this version of the package, whatever SOURCE has.

    SOURCE needs weights, config and, if the model has one, tokenizer or image processor. A model card is not taken
    over.
    """
    from .export import export_checkpoint
    from .loading import find_folder, head_classes, load_checkpoint, load_image_processor

    with refusals():
        found = find_folder(source, revision)
        family, auto_classes = head_classes(found)
        if len(auto_classes) != 1:
            raise ValueError(f"{source} records {len(auto_classes)} heads, {auto_classes}; a checkpoint is for one")
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

    Code runs only if its bytes are those of this package. Ends with status 1, and the reason, if it is refused.
    """
    from .verify import verify_folder

    with refusals():
        found = verify_folder(folder, run_foreign_code=run_foreign_code, also=also or (), time_limit=time_limit)
    package, audit = f"hf_effattn {version('hf_effattn')}", found.audit
    if audit.code:
        say(tabulate(audit.code.items(), headers=("code", "SHA-256"), tablefmt="simple"))
        foreign = f"all but {', '.join(audit.foreign)}" if audit.foreign else "all of it"
        say(f"\nthe code of {package}: {foreign}")
    else:
        say(f"there is no code: it loads where {package} is installed")
    say(f"weights: {', '.join(audit.weights)}")
    for auto_class, difference in found.differences.items():
        say(f"{auto_class}: largest difference of the logits {difference:.3g}")


def push(
    folder: Folder,
    repository: Annotated[str, typer.Argument(help="owner/name; made if it does not exist")],
    private: Annotated[
        bool | None, typer.Option(help="visibility of the repository; one that exists is not changed")
    ] = None,
    revision: Annotated[str, typer.Option(help="the branch to push to")] = "main",
    message: Annotated[str | None, typer.Option(help="message of the commit")] = None,
    run_foreign_code: RunForeignCode = False,
    also: Also = None,
    time_limit: TimeLimit = 600,
) -> None:
    """Verify a checkpoint, then publish the files that were verified as one commit.

    The token is that of HF_TOKEN or of `hf auth login`. Prints how to load exactly what was pushed.
    """
    from .push import push_checkpoint

    with refusals():
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
    """Print what may hold names from a checkpoint, without the codes that a terminal would obey."""
    typer.echo(printable(text), err=error)


@contextmanager
def refusals() -> Iterator[None]:
    """End with status 1 and the reason where a checkpoint is refused, or a file, the network or a library fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        say(f"failed: {error.name} is missing: pip install 'hf_effattn[train]'", error=True)
        raise typer.Exit(1) from error
    except (ValueError, OSError, RuntimeError) as error:
        say(f"refused: {error}" if isinstance(error, ValueError) else f"failed: {error}", error=True)
        raise typer.Exit(1) from error
    except Exception as error:
        # Libraries have errors of their own kinds. Whoever looks for the place gets it in Python's development mode.
        if sys.flags.dev_mode:
            raise
        where = f"; `python -X dev -m hf_effattn {' '.join(sys.argv[1:])}` shows where"
        say(f"failed: {type(error).__name__}: {error}{where}", error=True)
        raise typer.Exit(1) from error
