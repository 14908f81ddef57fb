"""ListOps: values, the distribution against a generator written as the original's, and the official files."""

import random
import re
from dataclasses import asdict

import numpy as np
import pytest
from transformers import AutoTokenizer

from hf_effattn.lra import get_task, listops
from hf_effattn.lra.checksums import verified
from hf_effattn.lra.listops import Distribution, evaluate, generate_listops


SHORT = Distribution(min_length=10, max_length=60, max_depth=5, max_args=4)
SIZES = {"train": 1500, "validation": 100, "test": 100}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MIN 4 2 9 ]", 2),
        ("[MAX 4 2 9 ]", 9),
        ("[MED 4 2 9 ]", 4),
        ("[MED 4 2 9 7 ]", 5),
        ("[SM 4 2 9 ]", 5),
        ("[MAX 2 [MIN 8 [SM 5 6 ] ] [MED 0 3 ] ]", 2),
        ("( ( ( ( [MAX 2 ) ( ( ( [MIN 8 ) 6 ) ] ) ) X )", 6),
    ],
)
def test_values(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["", "3 4", "[MAX 3", "3 ]", "[MAX ]", "[MAX 3 12 ]", "[FIRST 3 4 ]"])
def test_what_is_no_expression_meets_a_clear_error(text):
    with pytest.raises(ValueError, match=r"whole expression|closes nothing|is not a token"):
        evaluate(text)


def tree_of_the_original(rng, depth, distribution):
    """The recursion of Long Range Arena's generator: the tokens of a tree, and its depth in operators."""
    if depth == distribution.max_depth or rng.random() > distribution.operator_probability:
        return [str(rng.randrange(10))], 0
    operator = rng.choice(listops.OPERATORS)
    parts = [tree_of_the_original(rng, depth + 1, distribution) for _ in range(rng.randint(2, distribution.max_args))]
    return [operator, *(token for part, _ in parts for token in part), "]"], 1 + max(deep for _, deep in parts)


def moments(tokens):
    """Figures of an expression that a wrong distribution would change."""
    depth, deepest, top_arguments = 0, 0, 0
    for token in tokens:
        depth += token.startswith("[") - (token == "]")
        deepest = max(deepest, depth)
        top_arguments += depth == 1
    operators = sum(token.startswith("[") for token in tokens)
    first = tokens[1].startswith("[")
    last = tokens[-2] == "]"
    return [len(tokens), deepest, operators, top_arguments, first, last, tokens[0] == "[MED", "9" in tokens]


def test_the_distribution_is_that_of_the_original_generator():
    rng = random.Random(0)
    wanted = []
    while len(wanted) < 3000:
        tokens, _ = tree_of_the_original(rng, 1, SHORT)
        if SHORT.min_length < len(tokens) < SHORT.max_length:
            wanted.append(moments(tokens))
    # Shards, since these are cut off in the midst of a batch.
    rows = listops._shards(list(range(6)), listops.SHARD, 0, asdict(SHORT))
    got = [moments(row["text"].split()) for row in rows]
    means, others = np.mean(wanted, axis=0), np.mean(got, axis=0)
    error = np.sqrt(np.var(wanted, axis=0) / len(wanted) + np.var(got, axis=0) / len(got))
    assert (np.abs(means - others) / error < 4).all(), (means, others)


def test_the_arena_has_long_expressions_of_ten_levels():
    drawn = listops.draw(np.random.default_rng(1), Distribution())
    expressions = [next(drawn) for _ in range(200)]
    lengths = [len(text.split()) for text, _ in expressions]
    assert all(500 < length < 2000 for length in lengths)
    assert max(moments(text.split())[1] for text, _ in expressions) == 9, "ten levels, of which the last has digits"
    assert all(evaluate(text) == value for text, value in expressions)
    assert len({value for _, value in expressions}) == 10


def test_splits_are_disjoint_and_do_not_depend_on_processes():
    one = generate_listops(SIZES, SHORT, num_proc=1)
    two = generate_listops(SIZES, SHORT, num_proc=2)
    texts = [text for split in SIZES for text in one[split]["text"]]
    assert {split: len(one[split]) for split in SIZES} == SIZES
    assert len(set(texts)) == len(texts)
    for split in SIZES:
        assert one[split].to_dict() == two[split].to_dict()
    assert generate_listops(SIZES, SHORT, seed=1)["test"]["text"] != one["test"]["text"]
    tiny = Distribution(min_length=3, max_length=5, max_depth=2, max_args=2)
    with pytest.raises(ValueError, match="different expressions were drawn, 1700 are needed"):
        generate_listops(SIZES, tiny)


def test_other_expressions_than_those_of_the_benchmark_are_refused():
    with pytest.raises(ValueError, match=r"the generated train split has SHA-256 .* so scores would not compare"):
        verified(generate_listops(SIZES, SHORT), listops.CHECKSUMS["listops"])


@pytest.mark.slow
@pytest.mark.parametrize("task", listops.DISTRIBUTIONS)
def test_the_benchmark_is_always_the_same(task):
    splits = get_task(task).load("generated")
    assert {name: len(split) for name, split in splits.items()} == listops.SPLIT_SIZES


def test_official_files_are_read_and_verified(tmp_path):
    for name in ("train", "val", "test"):
        rows = "Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n( ( [MED 3 ) ] )\t3\n"
        (tmp_path / f"basic_{name}.tsv").write_text(rows)
    splits = get_task("listops").load(str(tmp_path))
    assert splits["validation"]["text"] == ["[MAX 2 9 ]", "[MED 3 ]"]
    assert splits["test"]["label"] == [9, 3]
    (tmp_path / "basic_val.tsv").write_text("Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t2\n")
    with pytest.raises(ValueError, match=r"basic_val\.tsv:2: the expression's value is 9, not 2"):
        get_task("listops").load(str(tmp_path))
    (tmp_path / "basic_val.tsv").write_text("Target\tSource\n9\t9\n")
    with pytest.raises(ValueError, match=r"basic_val\.tsv: the first line is .*, not Source and Target"):
        get_task("listops").load(str(tmp_path))
    (tmp_path / "basic_val.tsv").unlink()
    with pytest.raises(ValueError, match=r"has no basic_val\.tsv"):
        get_task("listops").load(str(tmp_path))
    with pytest.raises(ValueError, match="unknown source 'hub'"):
        get_task("listops").load("hub")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("[MAX 2 9 ]", "the number of cells is 1, not 2"),
        ("( ( ( [MAX 2 ) 9 ) ] )\t", "the label '' is not a whole number"),
        ("( ( ( [MAX 2 ) 9 ) ] )\t10", "the label 10 is none of the 10 classes"),
        ("[MAX " + "7 " * 2000 + "\t7", r"not one whole expression: '\[MAX 7 7 7 7"),
        ("\t7", "not one whole expression: ''"),
    ],
)
def test_broken_rows_of_official_files_are_left_out_or_refused(tmp_path, caplog, row, reason):
    for name in ("train", "val", "test"):
        (tmp_path / f"basic_{name}.tsv").write_text("Source\tTarget\r\n" + "( ( [MED 3 ) ] )\t3\r\n" * 1000)
    with (tmp_path / "basic_test.tsv").open("a") as file:
        file.write(f"{row}\n")
    assert len(get_task("listops").load(str(tmp_path))["test"]) == 1000
    (record,) = caplog.records
    assert re.search(rf"basic_test\.tsv: 1 of 1,001 rows are broken: line 1002 \({reason}", record.getMessage())
    assert len(record.getMessage()) < 400
    (tmp_path / "basic_test.tsv").write_text(f"Source\tTarget\n{row}\n")
    with pytest.raises(ValueError, match=rf"1 of 1 rows are broken: line 2 \({reason}"):
        get_task("listops").load(str(tmp_path))


def test_the_tokenizer_knows_every_token_and_loads_without_code(tmp_path):
    get_task("listops").tokenizer(12).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 18
    ids = tokenizer("[SM 0 9 [MIN 1 2 ] ]")["input_ids"]
    assert ids == [1, 17, 4, 13, 14, 5, 6, 3, 3]
    assert tokenizer("what")["input_ids"] == [1, 2]
    assert len(tokenizer("1 " * 50, truncation=True)["input_ids"]) == 12
