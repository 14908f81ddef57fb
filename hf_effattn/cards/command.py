"""The command ``hf-effattn card``."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.commands import Folder, exit_on_errors, say


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(card)


def card(
    folder: Folder,
    results: Annotated[Path, typer.Option(help="results.json of the run that trained the model")],
    repository: Annotated[str | None, typer.Option(help="owner/name, for the examples")] = None,
    revision: Annotated[str | None, typer.Option(help="commit of weights and code there, for the examples")] = None,
    license: Annotated[str | None, typer.Option(help="that of the weights, by the Hub's name of it")] = None,
) -> None:
    """Write the model card, README.md, from the results of the training run, one of run_lra.py; needs the train extra.

    For a model of another script, write README.md by hand: push takes any card.
    """
    with exit_on_errors():
        from .card import write_card

        write_card(folder, results, repository, revision, license)
    say(f"{folder / 'README.md'} written; next: hf-effattn push {folder} {repository or 'OWNER/NAME'}")
