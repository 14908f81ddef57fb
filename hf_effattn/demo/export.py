"""Writes the page as a Space of the Hub: a folder with program, versions, card, package and checkpoints."""

import shutil
import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCardData
from packaging.version import Version

from ..hub.audit import audit_checkpoint
from ..hub.checkpoint_files import check_unchanged
from ..hub.export import replace_export
from ..version import __version__
from .models import LoadedModel, default_source, load_models


#: The dependencies of the package and of its extra ``demo``, as in ``pyproject.toml``.
PACKAGES = (
    *("torch", "transformers", "huggingface_hub", "safetensors", "tokenizers", "packaging", "tabulate", "typer"),
    *("gradio", "matplotlib"),
)

#: The package; the Space has a copy of it.
PACKAGE = Path(__file__).parents[1]

PROGRAM = '''\
"""The page, as the Hub runs it; `python app.py` runs it anywhere."""

from pathlib import Path

from hf_effattn.demo.models import load_models
from hf_effattn.demo.page import build_page, serve


HERE = Path(__file__).parent

#: Folders beside this file, or names of repositories.
SOURCES = {sources}

page = build_page(load_models([str(HERE / name) if (HERE / name).is_dir() else name for name in SOURCES]))

if __name__ == "__main__":
    serve(page)
    page.block_thread()
'''

CARD = """\
---
{metadata}
---

# Try efficient attention

Models: {names}.

This is the page of `hf-effattn demo`: classifiers with their attention and times, decoders with the size of
their state. `hf_effattn/` is version {version} of the package. `requirements.txt` has the versions of other
packages with which it was tried.
"""


def export_space(sources: Sequence[str], folder: str | Path, *, also: Collection[str] = ()) -> Path:
    """Write a folder that can be pushed as a Space. An earlier export of a Space there is replaced.

    Checkpoint folders are copied into the Space. Repositories are downloaded by the Space when it starts.

    Args:
        sources: see `load_models`. Each model is loaded once here, to see that it works.
        folder: the folder to write to.
        also: paths of further files that belong to the checkpoints.

    Raises:
        FileExistsError: `folder` holds something that no export of a Space has written. Nothing is touched.
        FileNotFoundError, ValueError: see `load_models`.
    """
    sources = list(dict.fromkeys(sources)) or [default_source()]
    models = load_models(sources, also=also)

    def write(staging: Path) -> None:
        named = [_place(source, loaded, staging, also) for source, loaded in zip(sources, models, strict=True)]
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, staging / PACKAGE.name, ignore=ignored)
        names = ", ".join(loaded.name for loaded in models)
        _write(staging / "app.py", PROGRAM.format(sources=named))
        _write(staging / "requirements.txt", "".join(f"{line}\n" for line in requirements()))
        _write(staging / "README.md", _card(names, [name for name in named if not (staging / name).is_dir()]))

    return replace_export(Path(folder), write, kind="Space", sign="app.py")


def requirements() -> list[str]:
    """Return `PACKAGES` with the installed versions."""
    return [f"{package}=={Version(version(package)).public}" for package in PACKAGES]


def _place(source: str, loaded: LoadedModel, staging: Path, also: Collection[str]) -> str:
    """Copy a checkpoint folder into the Space, and return the name by which ``app.py`` loads the checkpoint."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    place = f"models/{folder.resolve().name}"
    number = 2
    while (staging / place).exists():
        place, number = f"models/{folder.resolve().name}-{number}", number + 1
    audit = audit_checkpoint(folder, also=also)
    for path in audit.files:
        (staging / place / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, staging / place / path)
    check_unchanged(staging / place, audit.files)
    return place


def _card(names: str, repositories: list[str]) -> str:
    data = SpaceCardData(
        title="Try efficient attention",
        emoji="⚡",
        colorFrom="indigo",
        colorTo="green",
        sdk="gradio",
        sdk_version=Version(version("gradio")).public,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license="apache-2.0",
        models=repositories or None,
    )
    return CARD.format(metadata=data.to_yaml(), names=names, version=__version__)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
