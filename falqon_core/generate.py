"""Greedy generation through transformers and its key-value cache: no random number is drawn.

A model's own generation config is for servers in all but the end of an answer (it may hold a
penalty for repetition, beams, a static cache). transformers fills in from there all that a caller
leaves open, and the tokens would not be those that the model finds most probable.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompt: np.ndarray, num_tokens: int, eos_token_id: int | None
) -> np.ndarray:
    """Return the token ids [n] that the model most probably continues `prompt` with: at most
    `num_tokens`, the end-of-sequence token included.
    """
    room = model.config.max_position_embeddings - len(prompt)
    if room < 1:
        return prompt[:0]
    input_ids = torch.from_numpy(prompt.astype(np.int64))[None].to(model.device)
    eos_token_ids = _eos_token_ids(model, eos_token_id)
    config = GenerationConfig(
        max_new_tokens=min(num_tokens, room),
        do_sample=False,
        eos_token_id=eos_token_ids or None,
        pad_token_id=eos_token_id or 0,
    )
    with _without_own_config(model):
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=config,
        )
    return output[0, len(prompt) :].cpu().numpy()


@contextmanager
def _without_own_config(model: PreTrainedModel) -> Iterator[None]:
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _eos_token_ids(model: PreTrainedModel, tokenizer_id: int | None) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's id and the model's own, of which it may
    have none, one or a list.
    """
    own = model.generation_config.eos_token_id
    candidates = own if isinstance(own, list) else [own]
    return sorted({token for token in (tokenizer_id, *candidates) if isinstance(token, int)})
