"""Train and score one model on one Long Range Arena task with a plain loop over Accelerate.

    python training_scripts/run_lra_no_trainer.py --recipe training_scripts/recipes/quickstart.yaml \
        --model_config simpletron/quickstart --output_dir runs/simpletron-loop
    torchrun --nproc_per_node 2 training_scripts/run_lra_no_trainer.py …

It reads the recipes of ``run_lra.py``, with the same optimizer, schedule and selection of the best weights. Take it to
change the loop. Several processes see what one with a batch as large as theirs together sees. It does not resume, and
refuses training arguments that it does not read.
"""

import dataclasses
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_scheduler, set_seed

from hf_effattn.data.collate import IGNORED
from hf_effattn.metrics import load_metric
from hf_effattn.training.argument_effects import READ_BY_LOOP
from hf_effattn.training.checkpoints import exclusive_output_dir
from hf_effattn.training.export_run import export_run
from hf_effattn.training.lra import LRA_SCORES, LraArguments, prepare
from hf_effattn.training.setup import parse_and_seed
from hf_effattn.training.train import resolved_setup, run_results


logger = logging.getLogger("run_lra_no_trainer")


def main(command_line: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    lra, training = parse_and_seed(LraArguments, command_line, __doc__, LRA_SCORES, check_read)
    prepared = prepare(lra)
    model = prepared.model
    loop = Loop(training, model, prepared.encoded["train"], prepared.encoded["validation"], prepared.collate)
    setup = resolved_setup(training, model, prepared.splits)
    with exclusive_output_dir(lra, training, setup):
        trained = loop.train(lra.patience)
        scores = loop.evaluate(loop.loader(prepared.encoded["test"]))
        read = {name: value for name, value in training.to_sanitized_dict().items() if name in READ_BY_LOOP}
        test = {f"test_{name}": value for name, value in scores.items()}
        results = run_results(lra, read, model, setup, **trained._asdict(), test=test)
        if loop.accelerator.is_main_process:
            results = export_run(model, prepared.processor, Path(str(training.output_dir)), results)
    logger.info("test accuracy %.4f, results in %s", scores["accuracy"], training.output_dir)
    loop.accelerator.end_training()
    return results.to_dict()


def check_read(lra: LraArguments, training: TrainingArguments) -> None:
    """Raise ValueError for arguments that the loop would not read, and where one that it needs is missing."""
    # Some fields follow from others.
    usual = TrainingArguments(**{name: getattr(training, name) for name in READ_BY_LOOP})
    changed = {
        field.name
        for field in dataclasses.fields(TrainingArguments)
        if field.init and getattr(training, field.name) != getattr(usual, field.name)
    }
    if unread := changed - READ_BY_LOOP:
        raise ValueError(f"this script does not read {sorted(unread)}: use run_lra.py, or leave them out")
    if given := [name for name in ("resume", "diagnose") if getattr(lra, name)]:
        raise ValueError(f"this script has no {given}: use run_lra.py")
    if training.max_steps <= 0 or not training.eval_steps or training.eval_steps < 1:
        raise ValueError("give max_steps and eval_steps in steps, which this script counts by")
    by_accuracy = training.metric_for_best_model in ("accuracy", "eval_accuracy")
    if training.eval_strategy != "steps" or not training.load_best_model_at_end or not by_accuracy:
        raise ValueError(
            "this script evaluates every so many steps and keeps the best weights by accuracy: pass eval_strategy "
            "steps, load_best_model_at_end true and metric_for_best_model accuracy, or use run_lra.py"
        )


class Trained(NamedTuple):
    """What `Loop.train` gives: steps made, the best evaluation and its accuracy, and an entry per evaluation."""

    steps: int
    best_step: int
    validation_accuracy: float
    log: list[dict[str, Any]]


class Loop:
    """Steps of training with evaluations between them.

    Args:
        training: the arguments of the trainer that the loop reads, see `READ_BY_LOOP`.
        model: is trained in place.
        train: rows to train on.
        validation: rows that choose the best weights, by accuracy.
        collate: makes batches of rows.
    """

    def __init__(
        self, training: TrainingArguments, model: PreTrainedModel, train: Dataset, validation: Dataset, collate: Any
    ):
        self.training, self.collate = training, collate
        self.accelerator = Accelerator(
            cpu=training.use_cpu,
            mixed_precision=training.mixed_precision,
            # Every process draws the same order, so two processes see what one with twice the batch sees.
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=training.seed),
            # As `Trainer` does: some models have parts that their loss does not depend on, such as BigBird's pooler.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        set_seed(training.seed)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, training),
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
        )
        # Not prepared: Accelerate would step it once per process.
        warmup = training.get_warmup_steps(training.max_steps)
        self.schedule = get_scheduler(training.lr_scheduler_type, optimizer, warmup, training.max_steps)
        size = training.per_device_train_batch_size
        batches = DataLoader(train, batch_size=size, shuffle=True, collate_fn=collate)
        self.model, self.optimizer, self.batches = self.accelerator.prepare(model, optimizer, batches)
        self.validation = self.loader(validation)

    def loader(self, rows: Dataset) -> DataLoader[Any]:
        """Batches to evaluate on."""
        size = self.training.per_device_eval_batch_size
        batches: DataLoader[Any] = self.accelerator.prepare(DataLoader(rows, batch_size=size, collate_fn=self.collate))
        return batches

    def train(self, patience: int | None) -> Trained:
        """Train for `max_steps`, and leave the weights of the best evaluation in the model.

        Args:
            patience: stop after so many evaluations that are no better than an earlier one.
        """
        evaluate_every, log = int(self.training.eval_steps or 0), []
        best, best_step, waited = -1.0, 0, 0
        weights: dict[str, torch.Tensor] = {}
        bar = tqdm(
            range(1, self.training.max_steps + 1),
            disable=self.training.disable_tqdm or not self.accelerator.is_main_process,
        )
        batches = self.endless_batches()
        for step in bar:
            loss = self.step([next(batches) for _ in range(self.training.gradient_accumulation_steps)])
            if step % evaluate_every and step != self.training.max_steps:
                continue
            scores = self.evaluate(self.validation)
            log.append({"step": step, "loss": loss, **scores})
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{scores['accuracy']:.3f}")
            waited += 1
            if scores["accuracy"] > best:
                best, best_step, waited = scores["accuracy"], step, 0
                weights = {name: tensor.detach().clone() for name, tensor in self.unwrapped().state_dict().items()}
            if waited == patience:
                break
        self.unwrapped().load_state_dict(weights)
        return Trained(step, best_step, best, log)

    def endless_batches(self) -> Any:
        """Batches of one epoch after the other, each in an order of its own."""
        epoch = 0
        while True:
            self.batches.set_epoch(epoch)
            yield from self.batches
            epoch += 1

    def step(self, batches: list[dict[str, torch.Tensor]]) -> float:
        """One step of the optimizer over the mean loss of `batches`, which it returns."""
        self.model.train()
        losses = []
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(**batch).loss / len(batches)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        if self.training.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(self.accelerator.reduce(torch.stack(losses).sum(), "mean"))

    @torch.no_grad()
    def evaluate(self, batches: DataLoader[Any]) -> dict[str, float]:
        """Accuracy, and its interval, over the rows of all processes."""
        self.model.eval()
        predicted: list[np.ndarray] = []
        expected: list[np.ndarray] = []
        for batch in batches:
            logits = self.model(**batch).logits
            pair = self.accelerator.gather_for_metrics((logits.argmax(-1), batch["labels"]))
            for part, kept in zip(pair, (predicted, expected), strict=True):
                kept.append(part.cpu().numpy())
        labels = np.concatenate(expected)
        scored = labels != IGNORED
        predictions = np.concatenate(predicted)[scored]
        scores: dict[str, float] = load_metric("accuracy").compute(predictions=predictions, references=labels[scored])
        return scores

    def unwrapped(self) -> PreTrainedModel:
        """The model itself."""
        model: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        return model


def parameter_groups(model: PreTrainedModel, training: TrainingArguments) -> list[dict[str, Any]]:
    """The parameters as `Trainer` groups them: biases and norms without weight decay."""
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in parameters if name in decayed], "weight_decay": training.weight_decay},
        {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0},
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
