"""The page as a folder that the Hub runs as a Space: program, versions, card, package, and the checkpoints."""

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


#: What the package and its page need, as pip calls it: the dependencies and the extra ``demo`` of ``pyproject.toml``.
PACKAGES = (
    *("torch", "transformers", "huggingface_hub", "safetensors", "tokenizers", "packaging", "tabulate", "typer"),
    *("gradio", "matplotlib"),
)

#: The package, which lies in the Space beside the program.
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

This is the page of `hf-effattn demo`: classifiers with what they look at and how long they take, decoders with the
size of their state. `hf_effattn/` is the package in version {version}, and `requirements.txt` what it ran with where
this Space was written.
"""


def export_space(sources: Sequence[str], folder: str | Path, *, also: Collection[str] = ()) -> Path:
    """Write a folder that is a Space as it is, replacing an earlier export as it left it, and nothing else.

    Checkpoint folders are copied into it. Repositories are named, and loaded when the Space starts.

    Args:
        sources: see `load_models`; each is loaded once, so that the Space is of models that work.
        folder: where to write.
        also: files of other names that belong to the checkpoints.

    Raises:
        FileExistsError: `folder` holds anything that no export of a Space has written; nothing is touched.
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
    """`PACKAGES` in the versions that are installed here."""
    return [f"{package}=={Version(version(package)).public}" for package in PACKAGES]


def _place(source: str, loaded: LoadedModel, staging: Path, also: Collection[str]) -> str:
    """Copy a checkpoint into a Space, if it is a folder; and give the name that the program loads it by."""
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
