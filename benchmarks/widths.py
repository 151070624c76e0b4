r"""The best learning rate by the width of a model: small Llamas of random weights, pre-trained on
one text, then trained on another with each method and rate.

    python -m benchmarks.widths --pretrain gsm8k_train.jsonl --text alpaca_800.jsonl

A token is a byte and no text is seen twice, so the mean loss of the last steps is one of unseen
text. Each training is a line of the results and is not run again; the page has the rate of the
lowest loss by width, of a parabola through the three best rates, and the slope over the widths.
Losses do not depend on how busy the machine is. What it does not show: a width of a real model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.our_training import OurTraining
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.data.microbatch import microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.methods import create_method
from falqon_core.ops import attention
from falqon_core.train.optimizer import learning_rate

RESULTS = Path(__file__).parent / "results"
WIDTHS = (128, 256, 512)
RATES = {
    "lora": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "falqon": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
}
LENGTH, RECORDS = 128, 4  # bytes of a record, records a step
PRETRAIN_STEPS, STEPS, LAST = 200, 60, 15


@dataclass(frozen=True, slots=True)
class Trained:
    """The mean loss of the last steps at one rate, in nats a byte."""

    method: str
    width: int
    rate: float
    loss: float

    @property
    def key(self) -> tuple[str, int, float]:
        return self.method, self.width, self.rate


def read_rows(text: Path, steps: int) -> np.ndarray:
    """Return the first bytes of a file, int32 [steps * RECORDS, LENGTH]."""
    data = np.frombuffer(text.read_bytes()[: steps * RECORDS * LENGTH], dtype=np.uint8)
    return data.astype(np.int32).reshape(steps * RECORDS, LENGTH)


def batches(text: Path) -> list[Microbatch]:
    """Return one microbatch a step."""
    mask = np.arange(LENGTH) > 0
    sequences = [TokenSequence(row, mask) for row in read_rows(text, STEPS)]
    return microbatches(sequences, RECORDS * LENGTH, packing=True)


def new_model(width: int, attention_name: str = attention.ATTENTION_NAME) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        attn_implementation=attention_name,
    )
    return LlamaForCausalLM(config)


def pretrain(width: int, text: Path) -> PreTrainedModel:
    """Return a model in bf16 that knows some of the text. transformers' own forward pass trains all
    weights; ours leaves the head frozen.
    """
    model = new_model(width, "sdpa")
    # The usual rule for training from scratch: inversely by the width.
    adamw = torch.optim.AdamW(model.parameters(), lr=4e-3 * 128 / width)
    for rows in torch.from_numpy(read_rows(text, PRETRAIN_STEPS)).long().split(RECORDS):
        model(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
    return model.bfloat16().eval()


def train(model: PreTrainedModel, method_name: str, rate: float, text: Path) -> float:
    """Return the mean loss of the last steps; `model` is changed."""
    data = batches(text)
    fields = {"method": method_name, "rank": 16, "learning_rate": rate, "batch_size": RECORDS}
    recipe = Recipe.model_validate(fields).resolved(STEPS * RECORDS)
    training = OurTraining(model, create_method(recipe), recipe, data[:4])
    losses = [
        training.step([batch], learning_rate(recipe, step, STEPS))
        for step, batch in enumerate(data)
    ]
    return sum(losses[-LAST:]) / LAST


def best_rate(losses: dict[float, float]) -> float:
    """Return the rate at the bottom of the parabola through the best three, or the best at an
    edge.
    """
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda index: losses[rates[index]])
    if at in (0, len(rates) - 1):
        return rates[at]
    left, middle, right = (losses[rates[index]] for index in (at - 1, at, at + 1))
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return float(rates[at] * math.exp(shift * math.log(rates[at + 1] / rates[at])))


def report(trained: Sequence[Trained]) -> str:
    losses = {each.key: each.loss for each in trained}
    lines = []
    for method, rates in RATES.items():
        points = []
        for width in WIDTHS:
            of_width = {rate: losses.get((method, width, rate), math.nan) for rate in rates}
            cells = " | ".join(f"{loss:.4f}" for loss in of_width.values())
            best = math.nan
            if not any(map(math.isnan, of_width.values())):
                best = best_rate(of_width)
                points.append((math.log(width), math.log(best)))
            lines.append(f"| {method}, {width} | {cells} | {best:.2g} |")
        head = [
            f"| method, width | {' | '.join(f'{rate:g}' for rate in rates)} | best rate |",
            f"|---|{'---:|' * (len(rates) + 1)}",
        ]
        lines[len(lines) - len(WIDTHS) : len(lines) - len(WIDTHS)] = head
        if len(points) > 1:
            lines += ["", f"The best rate goes as width^{slope(points):.2f}."]
        lines.append("")
    return "\n".join(lines)


def slope(points: Sequence[tuple[float, float]]) -> float:
    x, y = zip(*points, strict=True)
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--pretrain", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    arguments = parser.parse_args()
    table = RESULTS / "widths.csv"
    for width in WIDTHS:
        base: PreTrainedModel | None = None
        for method, rates in RATES.items():
            for rate in rates:
                if (method, width, rate) in {each.key for each in read(table, Trained)}:
                    continue
                base = base or pretrain(width, arguments.pretrain)
                model = new_model(width).bfloat16().eval()
                model.load_state_dict(base.state_dict())
                loss = train(model, method, rate, arguments.text)
                append(table, [Trained(method, width, rate, round(loss, 5))])
                print(method, width, f"{rate:g}", f"{loss:.4f}", flush=True)
    command = "python -m benchmarks.widths --pretrain gsm8k_train.jsonl --text alpaca_800.jsonl"
    (RESULTS / "widths.md").write_text(
        f"# The best rate by width\n\nLlamas of two layers and random weights, pre-trained for "
        f"{PRETRAIN_STEPS} steps; loss a byte of the last {LAST} of {STEPS} steps on another text, "
        f"rank 16, one seed. Made by\n\n    {command}\n\n{report(read(table, Trained))}"
    )


if __name__ == "__main__":
    main()
