"""README.md of a trained model and the curve that it shows: front matter for the Hub, how to load
it, how it was trained and on what, and what it cannot do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from falqon_core.contract.block_weights import BLOCK_SPECS, Weights, title_of
from falqon_core.contract.certificate import CERTIFICATE, Certificate, Check
from falqon_core.contract.config import ObjectiveName, Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.data.summary import DataSummary
from falqon_core.export.curve import CURVE_FILE, draw_curve, evenly
from falqon_core.export.provenance import CARD_TAG, CardFields
from falqon_core.files import write_whole

MAX_TABLE_ROWS = 20
_WITHOUT_FP8 = "On hardware without FP8,"
_AS_BF16 = "As one tensor a weight,"
LOSSES = {
    "valid_loss": "as trained",
    "valid_loss_fp8_weights": "merged, weights in FP8",
    "valid_loss_as_served": "merged, weights and activations in FP8, as a card with FP8 serves it",
}
OBJECTIVES: dict[ObjectiveName, str] = {
    "supervised": "Supervised fine-tuning",
    "dpo": "Direct preference optimization (DPO) against the base model",
}
HELD_OUT_NOTE = (
    "The validation loss says how well it predicts records like the training records, "
    "and nothing more."
)
NOT_HELD_OUT_NOTE = (
    "There is no validation loss: nothing here says how well it does on what it has not seen."
)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One line of the training table. Losses are means, in nats: over the labels, or with
    objective "dpo" over the pairs.
    """

    step: int
    train_loss: float
    valid_loss: float | None
    learning_rate: float


def write_model_card(
    folder: Path,
    *,
    base_model: str,
    fields: CardFields,
    recipe: Recipe,
    rows: Sequence[TrainingRow],
    num_records: int,
    tokens_per_epoch: int,
    trained_tokens: int,
    data: DataSummary | None,
    device: str,
    certificate: Certificate | None = None,
) -> None:
    """`base_model` is shown, `fields` are for the front matter; `recipe` is the resolved one."""
    tags = [recipe.weights, CARD_TAG, *(["dpo"] if recipe.objective == "dpo" else [])]
    front_matter = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", tags=tags, **fields
    )
    valid_losses = [(row.step, row.valid_loss) for row in rows if row.valid_loss is not None]
    write_whole(
        folder / CURVE_FILE, draw_curve([(row.step, row.train_loss) for row in rows], valid_losses)
    )
    table = "\n".join(_row(row) for row in thin_rows(rows))
    settings = "\n".join(
        f"| {name} | {_setting(value)} |"
        for name, value in recipe.model_dump(exclude_none=True).items()
    )
    amount = f"{num_records:,} records, {trained_tokens:,} trained tokens"
    card = f"""---
{front_matter.to_yaml()}
---
# {base_model}, fine-tuned with {METHOD_SPECS[recipe.method].title}

{_form(recipe.weights)}

## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
# needs: pip install transformers compressed-tensors
model = AutoModelForCausalLM.from_pretrained("PATH")
```
```sh
vllm serve PATH
```
{_WITHOUT_FP8 if recipe.weights == "fp8" else _AS_BF16}
`from_pretrained("PATH", quantization_config=CompressedTensorsConfig(dequantize=True))` gives plain
bf16 weights.
`sha256sum -c SHA256SUMS` verifies a download.
{_template(recipe)}
## Training
{OBJECTIVES[recipe.objective]}: {amount}, on {device}.{_best(certificate)}
{_method(recipe, certificate)}

![Training and validation loss over the steps]({CURVE_FILE})

| step | training loss | validation loss | learning rate |
|---:|---:|---:|---:|
{table}

| setting | value |
|---|---|
{settings}

## Data
| | |
|---|---|
{_data(num_records, tokens_per_epoch, recipe.max_seq_length, data, certificate)}

{_proof(certificate)}## Limits
It inherits the licence, the knowledge and the biases of its base model, and has learned only what
the training records show.
Losses over the steps are measured while it trains, with activations as its device computes them.
{HELD_OUT_NOTE if valid_losses else NOT_HELD_OUT_NOTE}
It was put to no benchmark, and to no test of whether its answers are safe.
"""
    write_whole(folder / "README.md", card)


def _form(weights: Weights) -> str:
    """Return a paragraph on what the folder holds."""
    if weights == "fp8":
        return (
            "A merged FP8 checkpoint: every linear layer of the decoder holds e4m3 codes with one "
            "scale per\noutput row, activations are quantized per token while serving, everything "
            "else is bf16. The format\nis compressed-tensors `float-quantized`."
        )
    spec = BLOCK_SPECS[weights]
    return (
        f"A merged {spec.title} checkpoint: every trained linear layer holds the very codes that "
        f"it was trained with,\none scale for {spec.block} weights of a row ({spec.bits:g} bits a "
        "weight in all). Activations and everything else are bf16, in\ntraining as in serving. "
        f"The format is compressed-tensors `{spec.folder}`."
    )


def _method(recipe: Recipe, certificate: Certificate | None) -> str:
    """Return a paragraph on the method, and a table of the losses of the merged model."""
    spec = METHOD_SPECS[recipe.method]
    text = f"Method: {spec.title} ({spec.paper}): {spec.summary}."
    if recipe.method != "falqon":
        text += "\nAfter training the adapters were added to the weights, and these rounded once."
    metrics = certificate.training.metrics if certificate else {}
    titles = LOSSES
    if recipe.weights != "fp8":
        as_served = f"merged, weights in {title_of(recipe.weights)}, as it is served"
        titles = LOSSES | {"valid_loss_as_served": as_served}
    losses = [
        f"| {title} | {metrics[name]:.4f} |" for name, title in titles.items() if name in metrics
    ]
    if "valid_loss_as_served" not in metrics:
        return text
    table = "\n".join(["| | validation loss |", "|---|---:|", *losses])
    return f"{text}\n\n{table}"


def _setting(value: object) -> str:
    """Write a setting into a cell of a table."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False).replace("|", "\\|")
    return str(value)


def _template(recipe: Recipe) -> str:
    """Return a paragraph, or nothing."""
    if not recipe.chat_template_kwargs:
        return ""
    names = ", ".join(f"`{name}`" for name in recipe.chat_template_kwargs)
    return (
        f"\nIts chat template has {names} as in training by default (see below), so it is prompted "
        "as it was trained.\nA request that sets them otherwise uses prompts that were not "
        "trained.\n"
    )


def _best(certificate: Certificate | None) -> str:
    if certificate is None or certificate.training.best_step is None:
        return ""
    return (
        f" The weights are those of step {certificate.training.best_step}, which had the lowest "
        "validation loss."
    )


def _data(
    num_records: int,
    num_tokens: int,
    max_length: int | None,
    data: DataSummary | None,
    certificate: Certificate | None,
) -> str:
    facts = {
        "training records": f"{num_records:,}",
        "their tokens": f"{num_tokens:,}, {num_tokens / num_records:,.1f} a record on average",
    }
    if data is not None:
        if data.num_examples not in (None, num_records):
            facts["sequences that long texts become"] = f"{data.num_examples:,}"
        facts |= {
            "tokens of the longest sequence": f"{data.longest:,}",
            f"records cut at {max_length:,} tokens": f"{data.num_truncated:,}",
            "records left out, bad or with nothing to learn": f"{data.num_left_out:,}",
            "validation records": f"{data.num_validation_records:,}",
        }
    if certificate is not None:
        files = {"training": certificate.data.train, "validation": certificate.data.validation}
        facts |= {
            f"sha256 of the {name} file": f"`{sha256}`" for name, sha256 in files.items() if sha256
        }
    return "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _proof(certificate: Certificate | None) -> str:
    """Return a section, or nothing."""
    if certificate is None:
        return ""
    checks = "\n".join(
        f"| {check.name.replace('_', ' ')} | {_outcome(check)} | {check.detail} |"
        for check in certificate.checks
    )
    held_out = certificate.held_out
    return f"""## Certificate
Before this model was published, another process loaded these files and compared them with what the
trainer held: on {held_out.num_rows} rows of the {held_out.source} data
({held_out.num_tokens:,} tokens) and on a prompt of its own.
`{CERTIFICATE}` says so in full, with the hashes of data, base model and files.

| compared | difference | |
|---|---|---|
{checks}

"""


def _outcome(check: Check) -> str:
    if check.bound is None:
        return "none"
    beyond = "" if check.passed else ", exceeded"
    return f"{check.difference:.4f} (bound {check.bound:g}{beyond})"


def thin_rows(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return at most `MAX_TABLE_ROWS` rows spread evenly, first and last among them, and as many of
    those with a validation loss.
    """
    validated = [row for row in rows if row.valid_loss is not None]
    chosen = {*evenly(rows, MAX_TABLE_ROWS), *evenly(validated, MAX_TABLE_ROWS)}
    return sorted(chosen, key=lambda row: row.step)


def _row(row: TrainingRow) -> str:
    valid = "" if row.valid_loss is None else f"{row.valid_loss:.4f}"
    return f"| {row.step} | {row.train_loss:.4f} | {valid} | {row.learning_rate:.4g} |"
