"""A recipe in the words of TRL's `SFTConfig`."""

import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from trl import SFTConfig

from zerogate.adapters.zero_init.image import ImageProjector
from zerogate.training.recipe import Plan, Recipe


def sft_config(recipe: Recipe, plan: Plan, model: torch.nn.Module, autocast: bool, measure_first: bool) -> SFTConfig:
    """The trainer's arguments.

    Args:
        recipe: the run.
        plan: what it comes to.
        model: with the adapter on it.
        autocast: fp32 layers are trained inside a half-precision base.
        measure_first: measure before the first step.
    """
    train = recipe.train
    on_cpu = next(model.parameters()).device.type == "cpu" and (
        recipe.base.device == "cpu" or not torch.cuda.is_available()
    )
    half = next((p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)), None)
    with warnings.catch_warnings():
        # TRL turns gradient_checkpointing on unless told, and transformers calls telling it by that name deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return SFTConfig(
            output_dir=recipe.output,
            per_device_train_batch_size=plan.micro_batch,
            gradient_accumulation_steps=plan.accumulation,
            max_steps=plan.steps,
            learning_rate=plan.learning_rate,
            lr_scheduler_type={"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}[
                train.schedule
            ],
            warmup_steps=plan.warmup_steps,
            adam_beta1=train.betas[0],
            adam_beta2=train.betas[1],
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm or 0.0,
            seed=train.seed,
            data_seed=train.seed,
            bf16=autocast and half == torch.bfloat16,
            fp16=half == torch.float16,  # half-precision gradients need the scaler
            use_cpu=on_cpu,
            ddp_backend="gloo" if on_cpu and PartialState().num_processes > 1 else None,
            # What sees has no gradient from a batch without images; then each process has to look what has one.
            ddp_find_unused_parameters=any(isinstance(module, ImageProjector) for module in model.modules()),
            ddp_broadcast_buffers=False,  # nothing changes them; gradients are all that is exchanged
            gradient_checkpointing=train.gradient_checkpointing,
            torch_compile=train.compile,
            # Measurements and checkpoints are asked for by Flow, once each.
            eval_strategy="no",
            save_strategy="no",
            eval_on_start=measure_first,
            logging_steps=train.log_every,
            logging_first_step=True,
            logging_nan_inf_filter=False,
            report_to=list(recipe.report_to),
            run_name=Path(recipe.output).name,
            disable_tqdm=True,
            dataloader_pin_memory=not on_cpu,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        )
