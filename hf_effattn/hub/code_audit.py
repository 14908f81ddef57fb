"""What the code of a checkpoint imports and uses, read from its syntax tree without running it."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .code_rules import OPTIONAL, REQUIRED, STANDARD, refusal
from .code_uses import Uses


@dataclass(frozen=True)
class CodeFile:
    """What one file imports.

    Attributes:
        imports: pairs of an imported package, and the line.
        offences: pairs of a line, and what must not stand there.
    """

    imports: list[tuple[str, int]]
    offences: list[tuple[int, str]]


def read_code(source: bytes, siblings: Mapping[str, set[str]]) -> CodeFile:
    """The imports and offences of a file.

    Args:
        source: the file.
        siblings: modules beside it -> the names that they make themselves, see `own_names`.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        return CodeFile([], [(getattr(error, "lineno", None) or 1, f"is not Python: {error}")])
    guarded = set(_guarded(tree))
    imports: list[tuple[str, int]] = []
    offences: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            offences += [(node.lineno, why) for why in _relative_offences(node, siblings)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported(node):
                imports.append((name.split(".")[0], node.lineno))
                offences += [(node.lineno, why) for why in _import_offences(name, node in guarded)]
    offences += Uses(tree).offences()
    return CodeFile(sorted(set(imports)), sorted(set(offences)))


def _guarded(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything inside a ``try`` that catches ImportError."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
            yield from (inner for statement in node.body for inner in ast.walk(statement))


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("ImportError", "ModuleNotFoundError") for kind in caught)


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that a statement imports, each as far as it can be a module."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names]


def own_names(source: bytes) -> set[str]:
    """The names that a file makes itself, and does not import; none if it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _relative_offences(node: ast.ImportFrom, siblings: Mapping[str, set[str]]) -> list[str]:
    if node.level == 1 and node.module is not None and "." not in node.module:
        if node.module not in siblings:
            return [f"imports .{node.module}, which the folder does not have"]
        # A module that another one imports would go by a name that tells nothing of it.
        foreign = {alias.name for alias in node.names} - siblings[node.module]
        return [f"imports {name} of .{node.module}, which only imports it itself" for name in sorted(foreign)]
    return ["is a relative import that transformers does not follow; write `from .name import thing`"]


def _import_offences(name: str, guarded: bool) -> list[str]:
    package, *inner = name.split(".")
    if (why := refusal(name)) is not None:
        return [f"imports {name}: it {why}"]
    if "*" in inner:
        return [f"imports all of {name.removesuffix('.*')}; name what it needs"]
    if package in STANDARD or package in REQUIRED:
        return []
    if package in sys.stdlib_module_names:
        return [f"imports {package}; allowed of the standard library are {', '.join(sorted(STANDARD))}"]
    if package not in OPTIONAL:
        return [
            f"imports {package}; allowed are {', '.join(REQUIRED)}, parts of the standard library, files beside it"
        ]
    return [] if guarded else [f"imports {package}, which may be missing, outside of a try that catches ImportError"]
