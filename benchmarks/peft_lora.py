"""LoRA by PEFT, with the forward pass and the loss of transformers, as users have it."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from falqon_core.data.microbatch import Microbatch


def create_peft(folder: Path, rank: int, *, checkpointing: bool = False) -> PeftModel:
    """Return a bf16 model with adapters in fp32 on all linears, ready to train."""
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
    )
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora).train()


def mean_loss(model: PeftModel, microbatch: Microbatch) -> Tensor:
    """Return the mean over the labels of padded records."""
    labels = torch.full_like(microbatch.labels, -100)  # transformers shifts by itself
    labels[:, 1:] = microbatch.labels[:, :-1]
    ids, mask = microbatch.input_ids, microbatch.attention_mask
    loss: Tensor = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    return loss
