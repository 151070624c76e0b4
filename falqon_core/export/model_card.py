"""README.md of a trained model: front matter for the Hub, how to load it, how it was trained, and what it cannot do."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCardData

from falqon_core.files import write_whole
from falqon_core.spec.certificate import CERTIFICATE, Certificate, Check
from falqon_core.spec.config import MethodName, Recipe

MAX_TABLE_ROWS = 20
METHODS: dict[MethodName, str] = {
    "falqon": "Supervised fine-tuning",
    "dpo": "Direct preference optimization (DPO) against the base model",
}


class TrainingRow(NamedTuple):
    """One line of the training table. Losses are means, in nats: over the labels, or with method "dpo" over the pairs."""

    step: int
    train_loss: float
    valid_loss: float | None
    learning_rate: float


def write_model_card(
    folder: Path,
    *,
    base_model: str,
    license: str | None,
    recipe: Recipe,
    rows: Sequence[TrainingRow],
    num_records: int,
    num_tokens: int,
    device: str,
    certificate: Certificate | None = None,
) -> None:
    """`recipe` is the resolved one; `num_tokens` counts the trained tokens; of many `rows` an even choice is shown."""
    data = ModelCardData(
        base_model=base_model,
        library_name="transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["fp8", "falqon", *(["dpo"] if recipe.method == "dpo" else [])],
    )
    table = "\n".join(_row(row) for row in thinned(rows))
    settings = "\n".join(f"| {name} | {value} |" for name, value in recipe.model_dump(exclude_none=True).items())
    card = f"""---
{data.to_yaml()}
---
# {base_model}, fine-tuned with FALQON

A merged FP8 checkpoint: every linear layer of the decoder holds e4m3 codes with one scale per output row, activations are
quantized per token while serving, everything else is bf16. The format is compressed-tensors `float-quantized`.

## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")  # needs: pip install transformers compressed-tensors
```
```sh
vllm serve PATH
```
On hardware without FP8, `from_pretrained("PATH", quantization_config=CompressedTensorsConfig(dequantize=True))` gives plain bf16 weights.
`sha256sum -c SHA256SUMS` verifies a download.

## Training
{METHODS[recipe.method]}: {num_records:,} records, {num_tokens:,} trained tokens, on {device}.

| step | training loss | validation loss | learning rate |
|---:|---:|---:|---:|
{table}

| setting | value |
|---|---|
{settings}

{_proof(certificate)}## Limits
It inherits the licence, the knowledge and the biases of its base model, and has learned only what the training records show.
Losses are measured during training, before the activations are quantized by the serving engine.
"""
    write_whole(folder / "README.md", card)


def _proof(certificate: Certificate | None) -> str:
    """A section, or nothing."""
    if certificate is None:
        return ""
    checks = "\n".join(f"| {check.name.replace('_', ' ')} | {_outcome(check)} | {check.detail} |" for check in certificate.checks)
    held_out = certificate.held_out
    return f"""## Certificate
Before this model was handed out, another process loaded these files and compared them with what the trainer held: on
{held_out.num_rows} rows of the {held_out.source} data ({held_out.num_tokens:,} tokens) and on a prompt of its own.
`{CERTIFICATE}` says so in full, with the hashes of data, base model and files.

| compared | difference | |
|---|---|---|
{checks}

"""


def _outcome(check: Check) -> str:
    return "none" if check.bound is None else f"{check.difference:.4f} (bound {check.bound:g})"


def thinned(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """At most `MAX_TABLE_ROWS` rows spread evenly, first and last among them, and besides those every row with a validation loss."""
    if len(rows) <= MAX_TABLE_ROWS:
        return list(rows)
    kept = {round(index * (len(rows) - 1) / (MAX_TABLE_ROWS - 1)) for index in range(MAX_TABLE_ROWS)}
    return [row for index, row in enumerate(rows) if index in kept or row.valid_loss is not None]


def _row(row: TrainingRow) -> str:
    valid = "" if row.valid_loss is None else f"{row.valid_loss:.4f}"
    return f"| {row.step} | {row.train_loss:.4f} | {valid} | {row.learning_rate:.2e} |"


def license_of(model_folder: Path) -> str | None:
    """The licence that a model folder's README.md declares in its front matter."""
    readme = model_folder / "README.md"
    if not readme.is_file():
        return None
    front_matter = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    declared = re.search(r"^license: *([\w.+-]+) *$", front_matter[1], re.MULTILINE) if front_matter else None
    return declared[1] if declared else None
