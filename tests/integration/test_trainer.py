"""`Trainer` on every kind of loss: accumulated batches make the step of one large batch."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from tests.models.variants import FAMILIES, over_causal_families, over_heads, random_ids, tiny_model
from tests.numerics import assert_close


IDS = random_ids(8, 9)
LABELS = {
    "AutoModelForMaskedLM": torch.where(IDS % 3 == 0, IDS, -100),
    "AutoModelForCausalLM": IDS,
    "AutoModelForTokenClassification": torch.where(IDS % 4 == 0, -100, IDS % 2),
    "AutoModelForSequenceClassification": torch.arange(8) % 2,
    "AutoModelForMultipleChoice": torch.arange(8) % 3,
}
PENALTY = {"kernel_transformer": {"orthogonality_penalty": 5.0}}


def rows_of(auto_class):
    ids = IDS.view(8, 3, 3) if "Choice" in auto_class else IDS
    return [{"input_ids": row, "labels": labels} for row, labels in zip(ids, LABELS[auto_class], strict=True)]


def weights_after_one_step(family, auto_class, folder, batch_size):
    model = tiny_model(family, auto_class, **PENALTY.get(family.model_type, {}))
    rows = rows_of(auto_class)
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=8 // batch_size,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0,
        save_strategy="no",
        disable_tqdm=True,
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    Trainer(model, arguments, train_dataset=rows).train()
    return torch.cat([(after - start).flatten() for after, start in zip(model.parameters(), before, strict=True)])


@pytest.mark.compat
@over_heads(*LABELS)
def test_accumulated_batches_make_the_step_of_one_large_batch(family, auto_class, tmp_path):
    whole = weights_after_one_step(family, auto_class, tmp_path / "whole", batch_size=8)
    parts = weights_after_one_step(family, auto_class, tmp_path / "parts", batch_size=2)
    # transformers counts the items of a batch in float32.
    assert_close("step", parts, whole, torch.float32)


def smoothed(model, folder):
    """`Trainer`'s loss of the batch with label smoothing, and the one that is meant."""
    arguments = TrainingArguments(output_dir=folder, label_smoothing_factor=0.1, use_cpu=True)
    loss = Trainer(model, arguments).compute_loss(model, {"input_ids": IDS, "labels": IDS})
    logits = model(IDS).logits[:, :-1].flatten(0, 1)
    return loss, torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten(), label_smoothing=0.1)


@over_causal_families
def test_label_smoothing_shifts_the_labels_of_causal_models(family, tmp_path):
    # transformers sums the smoothed part in float32.
    assert_close("loss", *smoothed(tiny_model(family, "AutoModelForCausalLM"), tmp_path), torch.float32)


def test_label_smoothing_knows_a_class_by_any_name(tmp_path):
    """As a checkpoint's own code may define it."""
    tiny = tiny_model(FAMILIES[0], "AutoModelForCausalLM")
    renamed = type("SomebodysDecoder", (type(tiny),), {})(tiny.config).double()
    assert_close("loss", *smoothed(renamed.eval(), tmp_path), torch.float32)
    assert type(tiny) is FAMILIES[0].model_class("AutoModelForCausalLM")
    assert type(AutoModelForCausalLM.from_config(tiny.config)) is type(tiny)


@pytest.mark.compat
@over_heads(*LABELS)
def test_evaluation_gives_a_loss(family, auto_class, tmp_path):
    """`Trainer` takes every argument of forward with "label" in its name for a column that must be there."""
    model = tiny_model(family, auto_class)
    rows = rows_of(auto_class)
    arguments = TrainingArguments(output_dir=tmp_path, disable_tqdm=True, use_cpu=True)
    scores = Trainer(model, arguments, eval_dataset=rows).evaluate()
    expected = model.eval()(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}).loss
    assert scores["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
