"""Names that other trainers have for the keys of keepstep.toml, and how to find the key that somebody meant.

The names come from transformers' TrainingArguments, TRL, peft, Axolotl, Unsloth and LLaMA-Factory.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

SAME: Mapping[str, tuple[str, ...]] = {
    "model.path": (
        *("base_model", "model_name", "model_name_or_path", "pretrained_model_name_or_path", "model_id", "model"),
        "base_model_name_or_path",
    ),
    "model.revision": ("model_revision", "base_model_revision", "revision_of_model"),
    "model.dtype": ("torch_dtype", "model_dtype", "lora_dtype"),
    "method.kind": ("adapter", "finetuning_type", "peft_type", "peft_method", "full_finetuning", "use_lora", "lora"),
    "method.r": ("lora_r", "lora_rank", "rank", "peft_r"),
    "method.alpha": ("lora_alpha", "peft_alpha"),
    "method.dropout": ("lora_dropout", "peft_dropout"),
    "method.target_modules": ("lora_target_modules", "lora_target", "lora_target_linear", "target", "modules"),
    "method.use_rslora": ("peft_use_rslora", "rslora", "use_rs_lora"),
    "method.use_dora": ("peft_use_dora", "dora", "lora_use_dora"),
    "method.quant_type": ("bnb_4bit_quant_type", "quantization_type"),
    "method.double_quant": ("bnb_4bit_use_double_quant", "double_quantization", "use_double_quant"),
    "data.format": ("dataset_type", "dataset_format", "formatting"),
    "data.prompt": ("prompt_column", "field_instruction", "prompt_field", "question"),
    "data.completion": ("completion_column", "field_output", "completion_field", "response", "answer"),
    "data.max_length": (
        *("max_seq_length", "max_seq_len", "sequence_len", "cutoff_len", "model_max_length", "block_size"),
        *("max_tokens", "seq_length", "seq_len"),
    ),
    "data.long": ("excess_length_strategy", "truncation", "truncation_mode", "overflow"),
    "data.packing": ("sample_packing", "pack", "neat_packing"),
    "data.validation": ("eval_dataset", "validation_file", "eval_file", "test_datasets", "validation_set"),
    "data.holdout": ("val_set_size", "val_size", "test_size", "eval_split", "validation_split"),
    "data.replay": ("replay_ratio", "mix_ratio"),
    "training.batch_size": (
        *("per_device_train_batch_size", "micro_batch_size", "train_batch_size", "batch_size_per_device"),
        *("micro_batch", "bs", "train_micro_batch_size_per_gpu"),
    ),
    "training.gradient_accumulation": ("gradient_accumulation_steps", "grad_accum", "accumulation_steps"),
    "training.epochs": ("num_train_epochs", "num_epochs", "n_epochs", "train_epochs", "epoch"),
    "training.learning_rate": ("lr", "peak_lr", "learning_rates", "max_lr"),
    "training.schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule", "scheduler_type"),
    "training.warmup_steps": ("num_warmup_steps", "warmup"),
    "training.warmup_ratio": ("warmup_fraction", "lr_warmup_ratio"),
    "training.min_learning_rate_ratio": ("cosine_min_lr_ratio", "min_lr_rate", "min_lr_ratio", "lr_end_ratio"),
    "training.weight_decay": ("decay", "wd", "adam_weight_decay"),
    "training.max_grad_norm": ("gradient_clipping", "grad_clip", "clip_grad_norm", "gradient_clip_val"),
    "training.seed": ("random_state", "random_seed", "data_seed"),
    "training.precision": ("mixed_precision", "bf16", "compute_dtype", "bnb_4bit_compute_dtype"),
    "training.betas": ("adam_betas", "adam_beta1", "adam_beta2", "beta1", "beta2", "optim_betas"),
    "training.eps": ("adam_epsilon", "adam_eps", "epsilon"),
    "training.threads": ("num_threads", "torch_threads"),
    "training.gradient_checkpointing": (
        *("gradient_checkpointing_kwargs", "use_gradient_checkpointing", "activation_checkpointing"),
    ),
    "samples.every_steps": ("sample_every", "sample_every_n_steps", "sample_steps"),
    "samples.prompts": ("sample_prompts", "eval_prompts", "sample_prompt"),
    "evaluation.every_steps": ("eval_steps", "eval_every", "eval_interval"),
    "evaluation.rows": ("max_eval_samples", "eval_rows", "eval_sample_count"),
    "checkpoints.every_steps": ("save_steps", "save_every", "save_interval", "checkpoint_steps", "checkpoint_interval"),
    "checkpoints.keep": ("save_total_limit", "max_checkpoints", "keep_last"),
    "logs.level": ("log_level", "logging_level", "verbosity"),
    "hooks.on_job_finished": ("on_train_end", "callback", "callbacks"),
}
"""By key of keepstep.toml: its other names."""

_ADAMW = "training uses AdamW with float32 state; see [training] betas, eps, weight_decay"
_LATER = "not available yet"
_HOME = "the home is the output directory: checkpoints are in its checkpoints/, models in its versions/"
_FILES = "data is not named in keepstep.toml: `keepstep add FILE` queues it"
_ROWS = "answers are trained and prompts are not, row by row: docs/reference/data-formats.md"
_TEMPLATE = "the chat template comes with the tokenizer in the model's directory"
_DEVICE = "keepstep uses one device: the first GPU that CUDA_VISIBLE_DEVICES shows, else the CPU"
_SWITCH = "keepstep has no such switch: a number of 0 in [checkpoints] or [evaluation] turns it off"
_STEPS = "every step is recorded: `keepstep logs`, `keepstep status`, `keepstep journal`"
_BATCHES = "keepstep plans and loads batches by itself, in an order that follows from [training] seed"

ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    _HOME: ("output_dir", "out_dir", "save_dir", "checkpoint_dir", "logging_dir", "overwrite_output_dir"),
    "[training] epochs and the number of rows decide the number of steps": (
        "max_steps",
        "total_steps",
        "max_train_steps",
    ),
    _STEPS: ("logging_steps", "logging_strategy", "log_steps", "logging_first_step", "plot_loss", "print_every"),
    "training always continues from the last commit: `keepstep run`; from an earlier one: `keepstep checkpoints`": (
        *("resume_from_checkpoint", "auto_resume_from_checkpoints", "resume", "ignore_data_skip"),
    ),
    _FILES: (
        *(
            "dataset",
            "datasets",
            "dataset_name",
            "dataset_path",
            "dataset_dir",
            "data_path",
            "train_file",
            "data_files",
        ),
        *("train_dataset", "dataset_text_field", "dataset_prepared_path", "max_samples", "streaming"),
    ),
    _ROWS: (
        *("train_on_inputs", "train_on_responses_only", "completion_only_loss", "assistant_only_loss", "mask_history"),
        *("train_on_prompt", "roles_to_train", "train_on_eos", "only_train_on_assistant"),
    ),
    _TEMPLATE: ("chat_template", "template", "chat_template_jinja", "special_tokens", "tokenizer", "tokenizer_name"),
    _DEVICE: ("device", "device_map", "use_cpu", "no_cuda", "local_rank", "num_gpus", "n_gpu", "gpus"),
    _SWITCH: ("do_train", "do_eval", "eval_strategy", "evaluation_strategy", "save_strategy", "load_best_model_at_end"),
    "it is not needed: keepstep records each value with the attempt": ("run_name", "project_name", "experiment_name"),
    f"{_LATER}; metrics are in `keepstep status --json`": (
        *("report_to", "wandb_project", "use_wandb", "wandb", "tensorboard", "use_tensorboard", "trackio", "mlflow"),
    ),
    "`keepstep versions export` writes a model that you can upload": (
        "push_to_hub",
        "hub_model_id",
        "hub_strategy",
        "hub_token",
    ),
    _BATCHES: (
        *("dataloader_num_workers", "dataloader_drop_last", "group_by_length", "remove_unused_columns", "shuffle"),
        *("dataset_num_proc", "preprocessing_num_workers", "pad_to_sequence_len", "dataloader_pin_memory"),
    ),
    'write [method] kind = "qlora"': ("load_in_4bit", "quantization_bit", "bnb_4bit", "quantization"),
    "[training] min_learning_rate_ratio is the same as a share of learning_rate": (
        "min_lr",
        "lr_end",
        "min_learning_rate",
    ),
    f'8-bit weights are {_LATER}; [method] kind = "qlora" has 4-bit ones': ("load_in_8bit",),
    f"it is {_LATER}; [training] gradient_checkpointing needs less memory": ("activation_offloading",),
    f"another attention is {_LATER}; the model's default is used": (
        *("attention", "attn_implementation", "flash_attention", "flash_attn", "sdp_attention", "xformers_attention"),
        *("use_flash_attention_2", "flash_attention_2"),
    ),
    f"another optimizer, such as an 8-bit one, is {_LATER}: {_ADAMW}": (
        "optim",
        "optimizer_type",
        "optim_args",
        "use_8bit_adam",
    ),
    f'float16 is {_LATER}; [training] precision is "fp32" or "bf16"': ("fp16", "float16", "half"),
    f"it is {_LATER}: one device trains": (
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "ddp_find_unused_parameters",
        "accelerate_config",
    ),
    f"it is {_LATER}": (
        *(
            "neftune_noise_alpha",
            "label_smoothing_factor",
            "lora_bias",
            "bias",
            "modules_to_save",
            "lora_modules_to_save",
        ),
        *("layers_to_transform", "init_lora_weights", "loraplus_lr_ratio", "use_galore", "torch_compile", "tf32"),
        *("early_stopping_patience", "liger_kernel", "use_liger_kernel", "task_type", "freeze_trainable_layers"),
    ),
}
"""By where that is decided instead: names that have no counterpart in keepstep.toml."""

_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "method": ("lora", "qlora", "peft", "adapter", "quantization", "lora_config", "peft_config", "finetuning"),
    "training": ("train", "trainer", "training_arguments", "training_args", "optim", "optimizer", "scheduler", "sft"),
    "data": ("dataset", "datasets", "dataset_config", "tokenizer", "preprocessing"),
    "evaluation": ("eval", "validation"),
    "samples": ("sample", "sampling", "generation", "generate"),
    "checkpoints": ("checkpoint", "saving", "save", "checkpointing"),
    "logs": ("logging", "log"),
    "hooks": ("callbacks", "notifications", "notify"),
    "consolidation": ("merge", "consolidate"),
}


@cache
def _keys() -> tuple[str, ...]:
    """Every key of keepstep.toml, of every method."""
    from cli.config.schema import DAEMON_SECTIONS, METHODS, Config, fields_of
    from events.settings import JobSettings

    sections = {**fields_of(JobSettings), **{name: fields_of(Config)[name] for name in DAEMON_SECTIONS}}
    del sections["sources"], sections["method"]
    found = [f"{name}.{key}" for name, section in sections.items() for key in section.__struct_fields__]
    methods = {key: None for section in METHODS.values() for key in ("kind", *section.__struct_fields__)}
    return (*found, *(f"method.{key}" for key in methods))


@cache
def _meanings() -> dict[str, str]:
    same = {other: f"did you mean {_shown(key)}?" for key, others in SAME.items() for other in others}
    return same | {other: text for text, others in ELSEWHERE.items() for other in others}


def find_meant(section: str, name: str) -> str:
    """The possible meaning of an unknown key, as advice; "" if nothing is near. `section` "": the key is in no
    section.
    """
    plain = name.lower().replace("-", "_").removeprefix("training_args.")
    here = [key for key in _keys() if key.partition(".")[0] == section]
    near_here = _near(plain, [key.partition(".")[2] for key in here])
    known = [key for key in _keys() if key.partition(".")[2] == plain]
    if known:  # another section has it
        return f"did you mean {' or '.join(map(_shown, known))}?"
    if plain in _meanings():
        return _meanings()[plain]
    if near_here:
        return f"did you mean {_shown(f'{section}.{near_here}')}?"
    near = _near(plain, [key.partition(".")[2] for key in _keys()]) or _near(plain, list(_meanings()))
    if near and near in _meanings():
        return _meanings()[near]
    return f"did you mean {' or '.join(_shown(key) for key in _keys() if key.endswith(f'.{near}'))}?" if near else ""


def find_meant_section(name: str, values: Mapping[str, Any]) -> str:
    """The section that an unknown one may mean, as advice; "" if nothing is near."""
    plain = name.lower().replace("-", "_")
    sections = list(dict.fromkeys(key.partition(".")[0] for key in _keys()))
    meant = next((section for section, others in _SECTIONS.items() if plain in others), None) or _near(plain, sections)
    if meant:
        return f"did you mean [{meant}]?"
    found = next(filter(None, (find_meant("", key) for key in values)), "")
    return f"{next(iter(values))}: {found}" if found else ""


def _near(name: str, names: list[str]) -> str:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.75)), "")


def _shown(key: str) -> str:
    section, _, name = key.partition(".")
    return f"[{section}] {name}"
