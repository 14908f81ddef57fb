"""`strict_config`: huggingface_hub's `@strict` for our configs, with errors that say what they are."""

import functools
from typing import Any, Literal, TypeVar, get_args, get_origin

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassError,
    StrictDataclassFieldValidationError,
)


ConfigClass = TypeVar("ConfigClass")

#: The largest numbers that a model can compute with: weights and states are float32, sizes are 64 bits wide.
LARGEST_FLOAT = torch.finfo(torch.float32).max
LARGEST_INT = 2**63 - 1

#: What torch calls the dtypes that weights can have.
DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")


class _Message(StrictDataclassError):
    """An error that is made from its message, so that it can be pickled, unlike those of huggingface_hub."""

    def __init__(self, message: str):
        Exception.__init__(self, message)


class FieldTypeError(_Message, StrictDataclassFieldValidationError, TypeError):
    """A value whose type is not that of its field."""


class FieldValueError(_Message, StrictDataclassFieldValidationError, ValueError):
    """A value of the right type that its field cannot have."""


class ClashError(_Message, StrictDataclassClassValidationError, ValueError):
    """Values that do not go together."""


class ClashTypeError(_Message, StrictDataclassClassValidationError, TypeError):
    """Values whose types do not go together."""


def strict_config(config_class: type[ConfigClass]) -> type[ConfigClass]:
    """`@strict`, with two differences.

    Its errors are also a `ValueError` (a value that its field cannot have, or values that clash) or a `TypeError` (a
    value of a wrong type), with the same message. And ``config.validate()`` checks every field again before it checks
    whether they go together, because a list may have been changed in place.
    """
    # `strict` adds methods to the class that it is given.
    strict(config_class)
    strict_class: Any = config_class
    assign, check_together = strict_class.__setattr__, strict_class.validate

    @functools.wraps(assign)
    def assign_checked(self: Any, name: str, value: Any) -> None:
        try:
            assign(self, name, value)
        except StrictDataclassFieldValidationError as error:
            if isinstance(error, _Message):
                raise
            unknown_choice = type(value) in map(type, _choices(self.__dataclass_fields__[name].type))
            wrong_type = isinstance(error.__cause__, TypeError) and not unknown_choice
            raise (FieldTypeError if wrong_type else FieldValueError)(str(error)) from error

    @functools.wraps(check_together)
    def validate(self: Any) -> None:
        for name, value in list(vars(self).items()):
            if name in self.__dataclass_fields__:
                setattr(self, name, value)
        try:
            check_together(self)
        except StrictDataclassClassValidationError as error:
            wrong_type = isinstance(error.__cause__, TypeError)
            raise (ClashTypeError if wrong_type else ClashError)(str(error)) from error

    strict_class.__setattr__, strict_class.validate = assign_checked, validate
    return config_class


def check_dtype(value: Any) -> None:
    """Refuse a dtype that weights cannot have.

    Raises:
        FieldTypeError: it is neither a dtype of torch, nor the name of one, nor None.
        FieldValueError: torch has no floating-point dtype of that name.
    """
    if isinstance(value, str) and value not in DTYPES:
        raise FieldValueError(f"dtype must be one of {DTYPES}, got {value!r}")
    if not isinstance(value, str | torch.dtype | None):
        raise FieldTypeError(f"dtype must be a torch.dtype, its name, or None, got {value!r}")


def check_number(config: Any, name: str, value: Any) -> None:
    """Refuse a number, or a number in a list, with which no model could compute.

    A field of type `int` is a size: at least 1, or 0 if that is its default. Another field is not negative. The
    class's `lowest_values` names the exceptions. A field with ``dropout`` in its name is a probability below 1.

    Raises:
        FieldValueError: the number is too small or too large, or not finite.
    """
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if "dropout" in name and not 0 <= number < 1:
            raise FieldValueError(f"{name} must lie in [0, 1), got {number}")
        lowest, largest = _bounds(type(config), name)
        # Written so that it holds for NaN, which is not below or above anything.
        if not abs(number) <= largest:
            raise FieldValueError(f"{name} must be finite and at most {largest:.4g}, got {number}")
        if number < lowest:
            limit = "not be negative" if lowest == 0 else "be positive" if lowest == 1 else f"be at least {lowest}"
            raise FieldValueError(f"{name} must {limit}, got {number}")


def _bounds(config_class: Any, name: str) -> tuple[float, float]:
    """The lowest and the largest value of a field that holds numbers."""
    field = config_class.__dataclass_fields__[name]
    real = float in (field.type, *get_args(field.type))
    lowest = 0 if real or field.default == 0 else 1
    return config_class.lowest_values.get(name, lowest), LARGEST_FLOAT if real else LARGEST_INT


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a type lists, ``("pre", "post")`` for ``Literal["pre", "post"] | None``."""
    parts = get_args(annotation)
    return parts if get_origin(annotation) is Literal else tuple(x for part in parts for x in _choices(part))


__all__ = [
    "ClashError",
    "ClashTypeError",
    "FieldTypeError",
    "FieldValueError",
    "check_dtype",
    "check_number",
    "strict_config",
]
