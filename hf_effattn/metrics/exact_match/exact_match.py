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
    """The share of answers that equal a reference after normalisation, and the mean F1 of their words.

    Normalisation is that of SQuAD: lower case; no ASCII punctuation; no articles a, an and the; no extra white space.
    If an answer has several references, the best score counts. An answer without references has to be empty.
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
        """Add answers and their references; `compute` scores them.

        Raises:
            ValueError: an answer is not a text, or a reference is neither a text nor a list of texts.
        """
        answers, references = list(predictions), [as_list(reference) for reference in references]
        if wrong := [answer for answer in answers if not isinstance(answer, str)]:
            raise ValueError(f"an answer is a text, not {wrong[0]!r}")
        super().add_batch(predictions=answers, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one answer and its references; see `add_batch`."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        if not predictions:
            raise ValueError("there are no answers to score")
        exact = overlap = 0.0
        for answer, right in zip(predictions, references, strict=True):
            words = normalised_words(answer)
            allowed = [normalised_words(text) for text in right] or [[]]
            exact += max(words == reference for reference in allowed)
            overlap += max(f1(words, reference) for reference in allowed)
        return {"exact_match": exact / len(predictions), "token_f1": overlap / len(predictions)}


def as_list(reference: Any) -> list[str]:
    """Return the references of an answer as a list.

    Raises:
        ValueError: the reference is neither a text nor a list of texts. `evaluate` itself checks the first row only,
            and would turn any later value into a text.
    """
    texts = [reference] if isinstance(reference, str) else reference
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a reference is a text or a list of texts, not {reference!r}")
    return list(texts)


def normalised_words(answer: str) -> list[str]:
    """Normalise an answer, and return its words."""
    return ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split()


def f1(words: list[str], reference: list[str]) -> float:
    """Harmonic mean of precision and recall of the words; repeated words count each time. 1 if both are empty."""
    if not words or not reference:
        return float(words == reference)
    return 2 * (Counter(words) & Counter(reference)).total() / (len(words) + len(reference))
