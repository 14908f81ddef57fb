"""Hooks of the documentation site, see ``mkdocs.yml``: pages whose source lies outside of ``docs/``, and notebooks.

``make docs`` builds the site. Links in the documents lead from file to file of the repository, so that they also work
where the repository is read; here they become links between pages.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[1]
DOCS = "docs"
RESULTS = "training_scripts/results"

#: File of the repository -> its place in the site.
MIRRORED = {
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    f"{RESULTS}/RESULTS.md": "results/arena.md",
    f"{RESULTS}/benchmark.md": "results/benchmark.md",
    **{
        f"{RESULTS}/{name}": f"results/{name}"
        for name in (
            "arena-learning.svg",
            "arena-memory.svg",
            "benchmark-memory.svg",
            "benchmark-time.svg",
            "gpu-nvidia-h100-torch2.11.0-triton3.6.0.json",
        )
    },
}
#: File of the repository whose place the site's page takes.
STAND_INS = {"README.md": "index.md"}

LINK = re.compile(r"(\]\()([^()\s#]+)((?:#[^()\s]*)?\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages whose sources lie elsewhere, and a page for every notebook."""
    for source, place in MIRRORED.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for notebook in sorted((ROOT / DOCS / "notebooks").glob("*.ipynb")):
        place = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, place, content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    place = page.file.src_uri
    return LINK.sub(lambda link: link[1] + site_link(link[2], place) + link[3], markdown)


def site_link(target: str, place: str) -> str:
    """The link of a page of the site, for a link in the page's source.

    A link to a file that the site does not have stays as it is; the build refuses it.
    """
    if re.match(r"[a-z]+:", target):
        return target
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(place)), target))
    mirrored = MIRRORED | STAND_INS
    inside = found.removeprefix(f"{DOCS}/") if found.startswith(f"{DOCS}/") else mirrored.get(found)
    return target if inside is None else posixpath.relpath(inside, posixpath.dirname(place) or ".")


def source_of(place: str) -> str:
    """The file of the repository that a page of the site is made from."""
    return {there: source for source, there in MIRRORED.items()}.get(place, f"{DOCS}/{place}")


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts and its code, without outputs."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.append(f"The notebook itself: [{path.name}]({path.name}).")
    return "\n\n".join(parts) + "\n"
