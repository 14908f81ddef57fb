"""F1 score."""

import datasets
import evaluate
from sklearn.metrics import f1_score


class F1(evaluate.Metric):
    """Harmonic mean of precision and recall, for the class `pos_label` or averaged over the classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="f1, as computed by scikit-learn",
            citation="Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python",
            inputs_description="predictions and references: class ids; average: see sklearn.metrics.f1_score",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: list[int], references: list[int], average: str = "binary", pos_label: int = 1
    ) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, average=average, pos_label=pos_label))}
