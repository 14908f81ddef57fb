"""What torch does with a call beside running it: function transforms, derivatives, and graphs."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad


_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Decorator of a function of constants: torch.compile calls it once, and does not look into it.
constant_in_graphs: Callable[[_Function], _Function] = torch.compiler.assume_constant_result


def reason_against_opaque_operators() -> str | None:
    """Why a derivative taken here would miss an operator whose inside torch cannot see, or None."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func's transforms (grad, vmap, jvp, ...) cannot look into compiled kernels"
    # Torch has no public name for it; should this one go, plain operations are right at any level.
    if getattr(forward_ad, "_current_level", 0) >= 0:
        return "compiled kernels have no forward-mode derivative"
    return None


def values_are_hidden() -> bool:
    """Whether no branch may depend on the values of a tensor: in a graph, and under torch.func's transforms."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


Gradients = tuple[torch.Tensor | None, ...]


class _Once(torch.autograd.Function):
    """The identity on a gradient that has no derivative: asked for one, it raises the error that it is given."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, message: str) -> torch.Tensor:
        ctx.message = message
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError(ctx.message)


_once: Callable[[torch.Tensor, str], torch.Tensor] = _Once.apply


def refuse_second_derivatives(output: torch.Tensor, remedy: str) -> None:
    """Let a second derivative through the operator that made `output` raise an error that names the remedy.

    First derivatives are left as they are, also with ``create_graph=True``. It costs a hook, and nothing in a graph.
    """
    if values_are_hidden():
        return
    node = output.grad_fn
    if node is None:
        return
    # Not the node itself, which would keep its tensors alive by a circle.
    message = f"second derivatives of {node.name()} are not implemented; {remedy}"

    def mark(gradients: Gradients, _: Gradients) -> Gradients | None:
        if not torch.is_grad_enabled():
            return None
        return tuple(part if part is None else _once(part, message) for part in gradients)

    node.register_hook(mark)
