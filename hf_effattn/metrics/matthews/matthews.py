"""Matthews correlation."""

import datasets
import evaluate
from sklearn.metrics import matthews_corrcoef


class Matthews(evaluate.Metric):
    """Correlation between predicted and true classes, from -1 to 1; chance gives 0. There may be more than two
    classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="matthews, from scikit-learn: 0 if all predictions or all references are one class",
            citation="Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient",
            inputs_description="predictions and references: class ids",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"matthews": float(matthews_corrcoef(references, predictions))}
