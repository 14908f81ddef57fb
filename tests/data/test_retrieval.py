"""Pairs of texts: the official files, and halves of film reviews whose lengths give nothing away."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_effattn.data.checksums import content_checksum
from hf_effattn.data.collate import PairCollator
from hf_effattn.data.tokenize import tokenize
from hf_effattn.lra import get_task
from hf_effattn.tokenization import byte_tokenizer


@pytest.fixture(scope="module")
def splits():
    return get_task("retrieval_reviews").load("package")


#: The splits that results refer to. If one of these changes, it is another benchmark.
CHECKSUMS = {
    "train": "3ec0630b01d900f766a684eb75b461326904129b5d2d7d8d4c559bbce093fa34",
    "validation": "269a9f32a7403575352e7edbdbbce05cd962ca57887bab7cfe1e1236600a113f",
    "test": "f166d8d9afc363e996692bb14e417e19a10b6e824302af02161fb2e1dcae05cc",
}


def test_the_splits_never_change(splits):
    assert {name: content_checksum(split) for name, split in splits.items()} == CHECKSUMS


def test_every_half_stands_once_and_comes_from_its_own_split(splits):
    reviews = get_task("text").load("package")
    halves = []
    for name, split in splits.items():
        assert abs(np.mean(split["label"]) - 0.5) < 0.03, "balanced"
        assert len(split) > 0.99 * len(reviews[name])
        halves += [*split["text"], *split["pair_text"]]
        wholes = {"".join(text.replace("<br />", " ").split()) for text in reviews[name]["text"]}
        joined = ["".join((row["text"] + row["pair_text"]).split()) in wholes for row in split]
        assert joined == [label == 1 for label in split["label"]]
    assert len(set(halves)) > 0.999 * len(halves), "reviews may share a phrase"


def test_both_halves_come_from_reviews_of_one_label(splits):
    def letters(text):
        return "".join(text.replace("<br />", " ").split())

    for name, reviews in get_task("text").load("package").items():
        starts, ends = (
            {letters(text)[part]: label for text, label in zip(reviews["text"], reviews["label"], strict=True)}
            for part in (slice(40), slice(-40, None))
        )
        # Halves of one review agree by themselves, and a few reviews begin or end alike.
        others = splits[name].filter(lambda label: label == 0, input_columns="label")
        found = [(starts.get(letters(row["text"])[:40]), ends.get(letters(row["pair_text"])[-40:])) for row in others]
        assert np.mean([None not in pair for pair in found]) > 0.99
        assert np.mean([first == second for first, second in found]) > 0.98


def test_lengths_do_not_give_the_answer_away(splits):
    def features(split):
        first, second = (np.array([len(text.encode()) for text in split[name]]) for name in ("text", "pair_text"))
        logs = np.log(np.stack([first, second, first + second], axis=1))
        return np.concatenate([logs, logs**2, (logs[:, :1] - logs[:, 1:2]) ** 2], axis=1)

    probe = LogisticRegression(max_iter=2000).fit(features(splits["train"]), splits["train"]["label"])
    accuracy = probe.score(features(splits["test"]), splits["test"]["label"])
    assert abs(accuracy - 0.5) < 0.03


def test_no_mark_of_a_line_is_left_and_no_single_character_gives_the_answer_away(splits):
    train, test = (
        {name: [text.encode()[:255] for text in split[name]] for name in ("text", "pair_text")}
        for split in (splits["train"], splits["test"])
    )
    labels, expected = np.array(splits["train"]["label"]), np.array(splits["test"]["label"])

    def accuracy(sign: bytes) -> float:
        """That of the commoner label for whether each half has the sign."""
        seen, asked = (
            2 * np.array([sign in text for text in half["text"]]) + [sign in text for text in half["pair_text"]]
            for half in (train, test)
        )
        says_same = np.array(
            [(labels[seen == value].mean() if (seen == value).any() else 0) > 0.5 for value in range(4)]
        )
        return (says_same[asked] == expected).mean()

    assert not any(b"<br" in text for half in (train, test) for texts in half.values() for text in texts)
    assert max(accuracy(bytes([sign])) for sign in range(33, 127)) < 0.55


def test_official_files_are_read_and_broken_rows_named(tmp_path, caplog):
    good = "1.0\ta\tb\tb'one text'\tb'another'\n0\tc\td\tthird\tfourth \"quoted\n"
    for name in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text(good)
    loaded = get_task("retrieval").load(str(tmp_path))
    assert loaded["validation"].to_dict() == {
        "text": ["b'one text'", "third"],
        "pair_text": ["b'another'", 'fourth "quoted'],
        "label": [1, 0],
    }
    path = tmp_path / "new_aan_pairs.eval.tsv"
    broken = "0\tonly\tthree\n2\ta\tb\tc\td\n1\ta\tb\t\td\n"
    path.write_text(good + broken)
    reasons = (
        r"line 3 \(the number of cells is 3, not 5\); line 4 \(the label 2 is none of the 2 classes\); "
        r"line 5 \(a text is empty\)"
    )
    with pytest.raises(ValueError, match=rf"eval\.tsv: 3 of 5 rows are broken: {reasons}\. At most"):
        get_task("retrieval").load(str(tmp_path))
    path.write_text(good * 1500 + broken)
    assert len(get_task("retrieval").load(str(tmp_path))["validation"]) == 3000
    assert "eval.tsv: 3 of 3,003 rows are broken: line 3001 (" in caplog.text
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks \['eval'\]"):
        get_task("retrieval").load(str(tmp_path))


def test_pairs_are_tokenized_and_padded_apart(splits):
    tokenizer = byte_tokenizer(40)
    encoded = tokenize(type(splits)({"train": splits["train"].select(range(4))}), tokenizer, 40)["train"]
    assert set(encoded.column_names) == {
        *("input_ids", "attention_mask", "pair_input_ids", "pair_attention_mask", "label"),
    }
    rows = [encoded[0], {**encoded[1], "pair_input_ids": [1, 9], "pair_attention_mask": [1, 1]}]
    batch = PairCollator(tokenizer)(rows)
    assert batch["input_ids"].shape == batch["pair_input_ids"].shape == (2, 40)
    assert batch["pair_attention_mask"].sum(1).tolist() == [40, 2]
    assert batch["labels"].tolist() == encoded["label"][:2]
    short = [{**row, "pair_input_ids": [1, 9], "pair_attention_mask": [1, 1]} for row in rows]
    assert PairCollator(tokenizer)(short)["pair_input_ids"].shape == (2, 2)
