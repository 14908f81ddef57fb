"""Write hf_effattn/__init__.pyi: where editors and type checkers find every public name of the package.

python training_scripts/public_names.py

The package imports its names when they are first used, which a static tool cannot follow.
"""

from pathlib import Path

import hf_effattn


STUB = Path(__file__).parents[1] / "hf_effattn" / "__init__.pyi"
HEADER = "# Written by training_scripts/public_names.py from the table in __init__.py.\n\n"


def stub() -> str:
    """The content of the file: one import per name, sorted by module."""
    modules: dict[str, str] = vars(hf_effattn)["_MODULES"]
    places = sorted((module.removeprefix("hf_effattn"), name) for name, module in modules.items())
    lines = [f"from {module} import {name} as {name}\n" for module, name in places]
    return HEADER + "".join(lines) + "\n__version__: str\n"


if __name__ == "__main__":
    STUB.write_text(stub())
