"""Matthews correlation."""

import datasets
import evaluate
from sklearn.metrics import matthews_corrcoef


class Matthews(evaluate.Metric):
    """Correlation of predicted and true classes, of two or of many: from -1 over 0 for chance to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="matthews, from scikit-learn: 0 where all predictions or all references are of one class",
            citation="Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient",
            inputs_description="predictions and references: class ids",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"matthews": float(matthews_corrcoef(references, predictions))}
