"""What each field of `transformers.TrainingArguments` does to a run: one table for all who ask."""

import enum


class Effect(enum.Flag):
    """What a training argument changes, and whether ``run_lra_no_trainer.py`` reads it.

    Attributes:
        RESULT: what the run computes. A run is resumed only with the same value, and a model card tells it.
        EXECUTION: where and how the run computes the same. It may differ on resume, and a model card tells it.
        RECORD: where the run is kept, logged and watched. It may differ on resume, and a model card leaves it out.
        LOOP: the loop without `Trainer` reads it, or does what it says anyway.
    """

    RESULT = enum.auto()
    EXECUTION = enum.auto()
    RECORD = enum.auto()
    LOOP = enum.auto()


_FIELDS_BY_EFFECT = {
    Effect.RESULT | Effect.LOOP: """
        adam_beta1 adam_beta2 adam_epsilon bf16 eval_steps eval_strategy fp16 gradient_accumulation_steps
        greater_is_better learning_rate load_best_model_at_end lr_scheduler_type max_grad_norm max_steps
        metric_for_best_model per_device_eval_batch_size per_device_train_batch_size save_steps save_strategy seed
        warmup_steps weight_decay""",
    Effect.RESULT: """
        accelerator_config activation_checkpointing activation_checkpointing_kwargs auto_find_batch_size
        average_tokens_across_devices batch_eval_metrics bf16_full_eval data_seed dataloader_drop_last
        dataloader_in_order dataloader_multiprocessing_context debug do_eval do_predict do_train enable_jit_checkpoint
        eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_use_gather_object fp16_full_eval
        full_determinism gradient_checkpointing gradient_checkpointing_kwargs ignore_data_skip include_for_metrics
        label_names label_smoothing_factor length_column_name liger_kernel_config lr_scheduler_kwargs
        neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules parallelism_config
        prediction_loss_only save_on_each_node save_only_model tf32 torch_compile torch_compile_backend
        torch_compile_mode torch_empty_cache_steps train_sampling_strategy use_cache use_liger_kernel""",
    Effect.EXECUTION | Effect.LOOP: "save_total_limit use_cpu",
    Effect.EXECUTION: """
        dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor
        ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
        deepspeed fsdp fsdp_config include_num_input_tokens_seen remove_unused_columns
        restore_callback_states_from_checkpoint skip_memory_metrics""",
    Effect.RECORD | Effect.LOOP: "disable_tqdm logging_steps output_dir",
    Effect.RECORD: """
        hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token local_rank log_level
        log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_strategy project
        push_to_hub report_to resume_from_checkpoint run_name trackio_bucket_id trackio_space_id
        trackio_static_space_id""",
}

#: The effect of every field of `TrainingArguments`, by its name.
EFFECTS: dict[str, Effect] = {name: effect for effect, names in _FIELDS_BY_EFFECT.items() for name in names.split()}

#: What `TrainingArguments.to_sanitized_dict` adds: it follows from the fields.
DERIVED = frozenset({"eval_batch_size", "train_batch_size"})

#: The fields that the loop without `Trainer` reads.
READ_BY_LOOP = frozenset(name for name, effect in EFFECTS.items() if Effect.LOOP in effect)


def changes_result(name: str) -> bool:
    """Whether runs that differ in this training argument are different runs; so is one that is not known here."""
    return Effect.RESULT in EFFECTS.get(name, Effect.RESULT)


def belongs_in_card(name: str) -> bool:
    """Whether a model card tells this training argument."""
    return name not in DERIVED and Effect.RECORD not in EFFECTS.get(name, Effect.RESULT)
