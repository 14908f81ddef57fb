"""The one place where tests compare numbers: relative RMS error against a float64 oracle, per dtype."""

import torch


#: Largest relative RMS error that a correct computation in this dtype may show, for sums over some hundred terms.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """RMS of the difference over RMS of `expected` (plain RMS where that is zero); inf for NaN or another shape."""
    if actual.shape != expected.shape or not torch.isfinite(actual).all():
        return float("inf")
    actual, expected = actual.detach().double(), expected.detach().double()
    size = expected.pow(2).mean().sqrt()
    error = (actual - expected).pow(2).mean().sqrt()
    return float(error / size) if size > 0 else float(error)


def assert_close(name: str, actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Fail unless `actual` equals `expected` within what `dtype` (that of `actual` if None) allows."""
    tolerance = TOLERANCE[dtype or actual.dtype]
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{name}: relative RMS error {error:.3g}, allowed {tolerance:.3g}"
