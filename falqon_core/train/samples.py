"""Sample completions: greedy answers of the model in training to some validation prompts.

A prompt is the part of a record before its first learned token, its expected answer the learned
tokens that follow. Generation goes through transformers with its key-value cache; it draws no
random numbers and changes nothing of the training. Later turns of a chat are not sampled.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.messages import Sample
from falqon_core.data.sequences import Item, TokenSequence, sequences_of
from falqon_core.generate import generate

MAX_CHARACTERS = 2000  # The limit of each text; a prompt keeps its end.


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    num_samples: int,
    sample_tokens: int,
) -> list[Sample]:
    """Complete the prompts of the first `num_samples` records, with at most `sample_tokens` tokens
    each.

    Of a pair the chosen answer is expected.
    """
    samples = []
    for item in items[:num_samples]:
        sequence = sequences_of(item)[0]
        start, end = _first_answer(sequence)
        prompt = sequence.input_ids[:start]
        texts = tokenizer.batch_decode(
            [
                prompt,
                generate(model, prompt, sample_tokens, tokenizer.eos_token_id),
                sequence.input_ids[start:end],
            ],
            skip_special_tokens=True,
        )
        samples.append(
            Sample(
                prompt=texts[0][-MAX_CHARACTERS:],
                completion=texts[1][:MAX_CHARACTERS],
                expected=texts[2][:MAX_CHARACTERS],
            )
        )
    return samples


def _first_answer(sequence: TokenSequence) -> tuple[int, int]:
    """Return [start, end) of the first run of learned tokens; every sequence of a data set has
    one.
    """
    learned = np.flatnonzero(sequence.loss_mask)
    others = np.flatnonzero(~sequence.loss_mask[learned[0] :])
    return int(learned[0]), int(learned[0] + others[0]) if len(others) else len(sequence)
