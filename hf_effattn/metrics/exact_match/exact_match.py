"""Exact match and token F1 of short answers."""

import re
import string
from collections import Counter
from typing import Any

import datasets
import evaluate


ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatch(evaluate.Metric):
    """Share of answers that equal a reference once normalised, and the mean F1 of their words.

    Normalised is as in SQuAD: lower case, without ASCII punctuation, the articles a, an and the, and extra white
    space. An answer counts as the best over its references. No reference at all means that there is no answer, and
    the empty one is right.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="exact_match and token_f1, shares from 0 to 1 (SQuAD prints them in per cent)",
            citation="Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text",
            inputs_description="predictions: answers; references: the right answer of each, or a list of them",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Answers and what they should be, to be scored by `compute`.

        Raises:
            ValueError: an answer is no text, or a reference neither a text nor a list of texts.
        """
        answers, references = list(predictions), [several(reference) for reference in references]
        if wrong := [answer for answer in answers if not isinstance(answer, str)]:
            raise ValueError(f"an answer is a text, not {wrong[0]!r}")
        super().add_batch(predictions=answers, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """One answer and what it should be; see `add_batch`."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        if not predictions:
            raise ValueError("there is not a single answer to score")
        exact = overlap = 0.0
        for answer, right in zip(predictions, references, strict=True):
            words = normalised(answer)
            allowed = [normalised(text) for text in right] or [[]]
            exact += max(words == reference for reference in allowed)
            overlap += max(f1(words, reference) for reference in allowed)
        return {"exact_match": exact / len(predictions), "token_f1": overlap / len(predictions)}


def several(reference: Any) -> list[str]:
    """The references of an answer as a list, which is what is stored.

    Raises:
        ValueError: it is neither a text nor a list of texts. (`evaluate` looks at the first row alone, and would make
            a text of whatever comes later.)
    """
    texts = [reference] if isinstance(reference, str) else reference
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a reference is a text or a list of texts, not {reference!r}")
    return list(texts)


def normalised(answer: str) -> list[str]:
    """The words of an answer that are compared."""
    return ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split()


def f1(words: list[str], reference: list[str]) -> float:
    """Harmonic mean of precision and recall of the words, each counted as often as it stands; 1 if both are empty."""
    if not words or not reference:
        return float(words == reference)
    return 2 * (Counter(words) & Counter(reference)).total() / (len(words) + len(reference))
