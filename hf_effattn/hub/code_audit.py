"""What the code of a checkpoint imports, read from its syntax tree without running it."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass


#: Packages that a checkpoint's code may need, and why each is there wherever a model is loaded.
REQUIRED = {
    "torch": "the models compute with it",
    "transformers": "the models are its classes",
    "huggingface_hub": "transformers needs it; it checks the types of config fields",
    "packaging": "transformers needs it; it compares versions",
}

#: Packages that the code may ask for inside a ``try`` that catches ImportError, and what for.
OPTIONAL = {
    "triton": "compiles the GPU kernels",
    "kernels": "puts other kernels in the place of a layer's forward",
    "hf_effattn": "has the compiled CPU kernels",
}

#: Modules and functions through which code comes in that no reader of the folder sees.
DYNAMIC = {
    "builtins": "hides exec and eval",
    "importlib": "imports by a name that is only known at run time",
    "marshal": "loads compiled code",
    "pickle": "runs what a pickle says",
    "pkgutil": "imports by a name that is only known at run time",
    "runpy": "runs files as code",
    "torch.hub": "downloads code and runs it",
    "torch.load": "runs what a pickle says",
    "torch.package": "loads code from an archive",
    "transformers.dynamic_module_utils": "downloads code and runs it",
    "zipimport": "imports from an archive",
}

#: Built-in names with which text becomes code.
DYNAMIC_NAMES = {"__builtins__", "__import__", "compile", "eval", "exec"}


@dataclass(frozen=True)
class CodeFile:
    """What one file imports.

    Attributes:
        imports: pairs of an imported package, and the line.
        offences: pairs of a line, and what must not stand there.
    """

    imports: list[tuple[str, int]]
    offences: list[tuple[int, str]]


def read_code(source: bytes, siblings: set[str]) -> CodeFile:
    """The imports and offences of a file that lies beside the modules `siblings`."""
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
                package = name.split(".")[0]
                imports.append((package, node.lineno))
                offences += [(node.lineno, why) for why in _import_offences(name, node in guarded)]
        else:
            offences += [(line, why) for line, why in _dynamic_offences(node)]
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


def _relative_offences(node: ast.ImportFrom, siblings: set[str]) -> list[str]:
    if node.level == 1 and node.module is not None and "." not in node.module:
        return [] if node.module in siblings else [f"imports .{node.module}, which the folder does not have"]
    return ["is a relative import that transformers does not follow; write `from .name import thing`"]


def _import_offences(name: str, guarded: bool) -> list[str]:
    package = name.split(".")[0]
    if (why := _dynamic(name)) is not None:
        return [f"imports {name}: it {why}"]
    if package in sys.stdlib_module_names or package in REQUIRED:
        return []
    if package not in OPTIONAL:
        return [f"imports {package}; allowed are {', '.join(REQUIRED)}, the standard library and files beside it"]
    return [] if guarded else [f"imports {package}, which may be missing, outside of a try that catches ImportError"]


def _dynamic_offences(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Name) and node.id in DYNAMIC_NAMES:
        yield node.lineno, f"uses {node.id}: it makes code of what is only known at run time"
    if isinstance(node, ast.Attribute) and (why := DYNAMIC.get(ast.unparse(node))) is not None:
        yield node.lineno, f"uses {ast.unparse(node)}: it {why}"


def _dynamic(name: str) -> str | None:
    """Why a dotted name, or a module that it lies in, is refused."""
    return next((why for module, why in DYNAMIC.items() if f"{name}.".startswith(f"{module}.")), None)
