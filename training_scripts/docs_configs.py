"""What griffe has to know of our configs, so that the site's reference has the type and the default of every field.

`mkdocs.yml` names this file as an extension of griffe, which reads the code for mkdocstrings without running it.
"""

from typing import Any

import griffe


class StrictConfigs(griffe.Extension):
    """Have classes under `strict_config` read as the dataclasses that this decorator makes of them."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add the decorator of dataclasses, which griffe's own extension looks for."""
        if any(str(decorator.value) == "strict_config" for decorator in cls.decorators):
            path = griffe.ExprName("dataclass", parent=griffe.ExprName("dataclasses"))
            cls.decorators.append(griffe.Decorator(path, lineno=cls.lineno, endlineno=cls.lineno))
