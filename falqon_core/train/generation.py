"""What models answer to one prompt, told piece by piece as they write it.

The prompt is a user's turn in the model's own chat template, or plain text where it has none; the answer is greedy, so that the same
prompt has the same answer. One model after the other is in memory, in bf16 on the CPU, whatever format its files have.
What is given up: sampling, chats of several turns, and the speed of a serving engine.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from falqon_core.contract.errors import DatasetError, OutOfMemory
from falqon_core.contract.messages import Answering
from falqon_core.data.chat_template import render_prompt
from falqon_core.train.memory import GIB, available_bytes, usable_bytes
from falqon_core.train.model import check_token_id, load_base_model, load_dimensions, load_tokenizer
from falqon_core.train.samples import generate

MAX_PROMPT_TOKENS = 4096
BYTES_PER_PARAMETER = 2
CPU = torch.device("cpu")


def answer(models: Sequence[Path], prompt: str, max_tokens: int, tell: Callable[[Answering], None]) -> None:
    """Let each of the model folders answer with at most `max_tokens` tokens.

    Raises `ModelError` for a folder that is refused, `DatasetError` for a prompt that does not fit, `OutOfMemory` before it is loaded.
    """
    for place, folder in enumerate(models):
        _answer_one(folder, prompt, max_tokens, lambda text, place=place: tell(Answering(model=place, text=text)))  # type: ignore[misc]


def _answer_one(folder: Path, prompt: str, max_tokens: int, tell: Callable[[str], None]) -> None:
    dimensions = load_dimensions(folder)
    needed, usable = BYTES_PER_PARAMETER * dimensions.num_parameters, usable_bytes(available_bytes(CPU))
    if needed > usable:
        raise OutOfMemory(f"the model needs about {needed / GIB:.2f} GiB on the CPU, and {usable / GIB:.2f} GiB can be used")
    tokenizer = load_tokenizer(folder)
    rendered = render_prompt(prompt, tokenizer)
    ids = tokenizer(rendered.text, add_special_tokens=rendered.plain, return_tensors="np")["input_ids"][0]
    most = min(MAX_PROMPT_TOKENS, dimensions.max_position_embeddings - 1)
    if not 0 < len(ids) <= most:
        raise DatasetError(f"the prompt has {len(ids):,} tokens; from 1 to {most:,} can be answered", "prompt")
    check_token_id(int(ids.max()), dimensions.vocab_size, tokenizer)
    generate(load_base_model(folder, CPU), ids, max_tokens, tokenizer.eos_token_id, _Streamer(tokenizer, tell))


class _Streamer(TextStreamer):
    """Hands on what is certain: whole words, not the first bytes of a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)  # type: ignore[arg-type]
        self._tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._tell(text)
