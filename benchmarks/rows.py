"""The benchmarks' data: JSONL in one of the trainer's shapes, or in GSM8K's (question, answer)."""

import json
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from falqon_core.data.dataset import load_dataset
from falqon_core.data.sequences import TokenSequence


def chat_dataset(
    data: Path, tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> list[TokenSequence]:
    rows = [json.loads(line) for line in data.read_text().splitlines() if line.strip()]
    if "question" in rows[0]:
        rows = [
            {
                "messages": [
                    {"role": "user", "content": r["question"]},
                    {"role": "assistant", "content": r["answer"]},
                ]
            }
            for r in rows
        ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        dataset = load_dataset(path, tokenizer, max_seq_length)
    return [sequence for sequence in dataset.sequences if isinstance(sequence, TokenSequence)]
