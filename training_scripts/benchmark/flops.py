"""The arithmetic that linear attention cannot do without, and the time that a machine needs for it at least."""

from .problem import GLU, TRAINING, Problem


#: Side of the square matrices whose product gives the machine's rate.
PRODUCT_SIDE = 1024


def product_flops() -> int:
    """Operations of one product of two square float32 matrices."""
    return 2 * PRODUCT_SIDE**3


def linear_attention_flops(problem: Problem, mode: str) -> int:
    """Operations in the matrix products of linear attention.

    Per head, ``K^T V`` and ``Q S`` take ``2 N F D`` each, forward ``4 N F D`` in all. The backward pass has four
    products of that size (``dV = K dS``, ``dK = V dS^T``, ``dQ = dO S^T``, ``dS = Q^T dO``), so that training takes
    ``12 N F D``. A trained gated map adds two products ``2 N d F`` for queries and two for keys, ``8 N d F``, and
    twice that again in the backward pass.

    The causal form is counted the same, as the recurrence would compute it: what chunks add to it is overhead, as
    are activations, denominators, and every feature that is computed twice.
    """
    tokens = problem.batch * problem.heads * problem.length
    flops = 4 * tokens * problem.features * problem.dim
    if problem.feature_map == GLU:
        flops += 8 * tokens * problem.dim * problem.features
    return 3 * flops if mode == TRAINING else flops
