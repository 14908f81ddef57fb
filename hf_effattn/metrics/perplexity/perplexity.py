"""Perplexity of a language model from its losses."""

import math

import datasets
import evaluate


class Perplexity(evaluate.Metric):
    """``exp(sum_i n_i nll_i / sum_i n_i)`` over rows of `n_i` tokens whose mean negative log-likelihood is `nll_i`.

    A row is whatever the mean was taken over: a token (`n_i` is 1, or 0 where it is masked), a sequence, or a batch.
    So batches of different size count by their tokens, which a mean of their perplexities or losses does not.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="perplexity, and bits_per_token, its binary logarithm: bits per byte where tokens are bytes",
            citation="Jelinek et al. 1977, Perplexity, a measure of the difficulty of speech recognition tasks",
            inputs_description=(
                "predictions: mean negative log-likelihoods in nats, one a row; references: tokens of the rows, or "
                "weights. Rows of 0 tokens count nothing, whatever their mean, which is then undefined"
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        for row, (loss, tokens) in enumerate(zip(predictions, references, strict=True)):
            if not (0 <= tokens < math.inf):
                raise ValueError(f"row {row} has {tokens} tokens; references are numbers of tokens, or weights >= 0")
            if tokens > 0 and math.isnan(loss):
                raise ValueError(f"the loss of row {row}, of {tokens:g} tokens, is not a number")
        total = math.fsum(references)
        if total == 0:
            raise ValueError("there is not a single token to take the perplexity of")
        products = (loss * tokens for loss, tokens in zip(predictions, references, strict=True) if tokens > 0)
        mean = math.fsum(products) / total
        # Beyond this the perplexity is no float64 any more.
        perplexity = math.exp(mean) if mean < math.log(2) * 1024 else math.inf
        return {"perplexity": perplexity, "bits_per_token": mean / math.log(2)}
