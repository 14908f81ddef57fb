"""Accuracy with its interval at 95 %."""

import datasets
import evaluate
from scipy.stats import binomtest


class Accuracy(evaluate.Metric):
    """The share of predictions that equal their reference, and its Wilson interval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="accuracy, and accuracy_low to accuracy_high, its Wilson score interval at 95 %",
            citation="Wilson 1927, Probable inference, the law of succession, and statistical inference",
            inputs_description="predictions and references: class ids",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        correct = sum(int(p == r) for p, r in zip(predictions, references, strict=True))
        interval = binomtest(correct, len(references)).proportion_ci(0.95, method="wilson")
        return {
            "accuracy": correct / len(references),
            "accuracy_low": float(interval.low),
            "accuracy_high": float(interval.high),
        }
