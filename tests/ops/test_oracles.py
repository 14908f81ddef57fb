"""The oracles share no code with what is tested against them, so that one fault cannot hide in both."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]

#: What a file of oracles may import.
ALLOWED = {
    "hf_effattn/models/ops_reference.py": {"torch"},
    "training_scripts/benchmark/oracles.py": {"math", "torch", "hf_effattn.models.ops_reference", ".problem"},
}


@pytest.mark.parametrize("path", ALLOWED)
def test_oracles_import_nothing_that_is_tested_against_them(path):
    imported = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    assert imported <= ALLOWED[path]
