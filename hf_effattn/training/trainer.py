"""Trainers: one whose checkpoints have checksums, and one that counts the tokens of pairs as well."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from ..files import disk_errors
from .checkpoint_files import best_weights, changed_file, checkpoint_of, seal


class CheckedTrainer(Trainer):
    """`Trainer` that checks its checkpoints.

    Every checkpoint gets the checksums of its files, written last. With `load_best_model_at_end`, the best weights
    must be there and unchanged since they were saved, also those of a run that was resumed; `Trainer` would keep the
    last weights if the best ones are missing.

    Attributes:
        best_weights: checksums of the files of the best weights so far, by name, or None if there are none.
    """

    best_weights: dict[str, str] | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, and then its checksums.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        folder = checkpoint_of(self._get_output_dir(trial), self.state.global_step)
        with disk_errors(folder, "make room, and go on with --resume true"):
            super()._save_checkpoint(model, trial)
            # Every process writes its random numbers there.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                is_best = self.state.best_global_step == self.state.global_step
                own = seal(folder, None if is_best else self.best_weights or {})
                self.best_weights = own if is_best else self.best_weights

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, resume_from_checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        """Begin, or go on from a checkpoint; its best weights are beside it, also if the run was moved.

        Raises:
            ValueError: the best weights are missing or have changed.
        """
        trained = super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)
        self.best_weights = None
        if resume_from_checkpoint is not None and self.args.load_best_model_at_end:
            self.best_weights = best_weights(Path(resume_from_checkpoint))
            if self.best_weights is not None:
                best = checkpoint_of(Path(resume_from_checkpoint).parent, int(self.state.best_global_step or 0))
                self.state.best_model_checkpoint = str(best)
        return trained

    def _load_best_model(self) -> None:
        """Load the best weights.

        Raises:
            ValueError: they are missing or have changed since they were saved.
        """
        folder = Path(str(self.state.best_model_checkpoint))
        if self.args.should_save:
            expected = self.best_weights
            reason = changed_file(folder, expected) if expected else "nobody knows the checksums"
            if reason is not None:
                raise ValueError(
                    f"the best weights were those of {folder}, but of these {reason}. Put it back from a copy, and "
                    "finish with --resume true; or remove it and the checkpoints after it first, so that the run goes "
                    "on from the one before and makes them anew"
                )
        super()._load_best_model()


class PairTrainer(CheckedTrainer):
    """A trainer that counts both sequences of a pair; `Trainer` counts the first only."""

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        trainer: Any = super()
        trainer._track_num_input_tokens(inputs)
        if (second := inputs.get("pair_attention_mask")) is not None:
            self.state.num_input_tokens_seen += int(self.accelerator.gather(second.sum()).sum())
