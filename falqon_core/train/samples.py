"""Sample completions: what the model in training answers to some validation prompts, greedily.

A prompt is what stands before the first learned token of a record, its expected answer the learned tokens that follow. Generation goes
through transformers with its key-value cache; it draws no random numbers and changes nothing of the training. What is given up: one
prompt at a time, and later turns of a chat are not asked.
"""

from collections.abc import Sequence as Items

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from falqon_core.contract.messages import Sample
from falqon_core.data.sequences import Pair, Sequence

MAX_CHARACTERS = 2000  # of each text; of a prompt the end is kept


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Items[Sequence] | Items[Pair], num_samples: int, sample_tokens: int
) -> list[Sample]:
    """Complete the prompts of the first `num_samples` records, with at most `sample_tokens` tokens each.

    Of a pair the chosen answer is expected.
    """
    samples = []
    for item in items[:num_samples]:
        sequence = item.chosen if isinstance(item, Pair) else item
        start, end = _first_answer(sequence)
        prompt = sequence.input_ids[:start]
        texts = tokenizer.batch_decode(
            [prompt, generate(model, prompt, sample_tokens, tokenizer.eos_token_id), sequence.input_ids[start:end]],
            skip_special_tokens=True,
        )
        samples.append(Sample(prompt=texts[0][-MAX_CHARACTERS:], completion=texts[1][:MAX_CHARACTERS], expected=texts[2][:MAX_CHARACTERS]))
    return samples


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompt: np.ndarray, num_tokens: int, eos_token_id: int | None, streamer: BaseStreamer | None = None
) -> np.ndarray:
    """Token ids [n] that the model most probably continues `prompt` with: at most `num_tokens`, the end-of-sequence token included.

    `streamer` is given the prompt and then each token as it is found.
    """
    input_ids = torch.from_numpy(prompt.astype(np.int64))[None].to(model.device)
    room = model.config.max_position_embeddings - len(prompt)
    ends = {eos_token_id, *_as_list(model.generation_config.eos_token_id)} - {None}
    if room < 1:
        return prompt[:0]
    config = GenerationConfig(
        max_new_tokens=min(num_tokens, room), do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=eos_token_id or 0
    )
    output = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=config, streamer=streamer)
    return output[0, len(prompt) :].cpu().numpy()


def _first_answer(sequence: Sequence) -> tuple[int, int]:
    """[start, end) of the first run of learned tokens; every sequence of a data set has one."""
    learned = np.flatnonzero(sequence.loss_mask)
    others = np.flatnonzero(~sequence.loss_mask[learned[0] :])
    return int(learned[0]), int(learned[0] + others[0]) if len(others) else len(sequence)


def _as_list(ids: int | list[int] | None) -> list[int | None]:
    return ids if isinstance(ids, list) else [ids]
