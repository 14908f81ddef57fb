"""What the code of a checkpoint does with what it imports, read from its syntax tree without running it."""

import ast
from collections.abc import Iterator

from .code_rules import DYNAMIC_ATTRIBUTES, DYNAMIC_NAMES, TRUST, hides, refusal


SETS_TRUST = f"sets {TRUST}, which runs code from elsewhere"


class Uses:
    """The uses of names and attributes in a file.

    Args:
        tree: the file.
    """

    def __init__(self, tree: ast.AST):
        self.tree = tree
        #: Names of the file -> the dotted names that they were imported as.
        self.origins: dict[str, str] = {}
        #: Those of them that are modules for certain.
        self.modules: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._read_import(node)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                self.origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def _read_import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            self.origins[name] = alias.name if alias.asname else name
            self.modules.add(name)

    def offences(self) -> Iterator[tuple[int, str]]:
        """Pairs of a line, and what must not stand there."""
        owners = {node.value for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name):
                yield from self._of_name(node, node in owners)
            elif isinstance(node, ast.Attribute):
                dotted = self._dotted(node)
                if (why := refusal(dotted)) is not None:
                    yield node.lineno, f"uses {dotted}: it {why}"
            elif isinstance(node, ast.keyword) and node.arg == TRUST:
                yield node.lineno, SETS_TRUST
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from self._of_text(node, node.value)
            elif isinstance(node, ast.MatchClass):
                for name in DYNAMIC_ATTRIBUTES.intersection(node.kwd_attrs):
                    yield node.lineno, f"asks for {name}, and so comes out of what a reader of the code sees"
            elif isinstance(node, ast.Call):
                yield from self._of_call(node)

    def _of_name(self, node: ast.Name, before_dot: bool) -> Iterator[tuple[int, str]]:
        if node.id in DYNAMIC_NAMES:
            yield node.lineno, f"uses {node.id}: it reaches files, or code that is only known at run time"
        elif node.id in self.modules and not before_dot:
            yield node.lineno, f"hands on the module {node.id}; name what it takes from there, as {node.id}.name"

    def _of_text(self, node: ast.Constant, text: str) -> Iterator[tuple[int, str]]:
        if text == TRUST:
            yield node.lineno, SETS_TRUST
        elif hides(text):
            yield node.lineno, f"names {text}: it leads out of what a reader of the code sees"

    def _of_call(self, node: ast.Call) -> Iterator[tuple[int, str]]:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            name = node.args[1]
            if not isinstance(name, ast.Constant | ast.Name | ast.JoinedStr):
                yield node.lineno, "asks getattr for a name that is put together; write the name"

    def _dotted(self, node: ast.expr) -> str:
        """An attribute as it would be without aliases; ``?`` stands for what is no name."""
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        return self.origins.get(node.id, node.id) if isinstance(node, ast.Name) else "?"
