"""Perplexity of a language model from its losses."""

import math

import datasets
import evaluate


class Perplexity(evaluate.Metric):
    """``exp(sum_i n_i nll_i / sum_i n_i)`` over rows of `n_i` tokens whose mean negative log-likelihood is `nll_i`.

    A row is the set of tokens that the mean was taken over: a token (`n_i` is 1, or 0 if it is masked), a sequence, or
    a batch. So every token counts once. In a mean of losses or perplexities, tokens of small batches would count more.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="perplexity, and bits_per_token, its binary logarithm: bits per byte where tokens are bytes",
            citation="Jelinek et al. 1977, Perplexity, a measure of the difficulty of speech recognition tasks",
            inputs_description=(
                "predictions: the mean negative log-likelihood of each row, in nats; references: the number of tokens "
                "in each row, or weights. Rows of 0 tokens do not count; their mean is undefined"
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
            raise ValueError("there are no tokens to compute the perplexity of")
        products = (loss * tokens for loss, tokens in zip(predictions, references, strict=True) if tokens > 0)
        mean = math.fsum(products) / total
        # A larger perplexity is not a float64.
        perplexity = math.exp(mean) if mean < math.log(2) * 1024 else math.inf
        return {"perplexity": perplexity, "bits_per_token": mean / math.log(2)}
