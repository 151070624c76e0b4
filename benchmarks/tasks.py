r"""What a user gets with 50, 300 and 1,000 rows: three tasks, by the base and the model of each
method at the automatic recipe, trained to its end.

    python -m benchmarks.tasks --model .cache/smollm2 --task json --rows 300 --methods falqon lora

The rows are those of task_rows.py. The score is the share of 200 held-out rows that the exported
model answers rightly, greedily. Each training is one line of the results, written when it has been
scored, and is not run again; one that was interrupted continues from its checkpoint. The page is
written anew after each line. Scores do not depend on how busy the machine is.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.task_rows import MAKERS, MOST_ROWS, TaskRow, is_right, make_rows
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import Evaluated, StepMetrics
from falqon_core.generate import generate
from falqon_core.train.compare import train_once
from falqon_core.train.model import load_base_model, load_tokenizer

RESULTS = Path(__file__).parent / "results"
BASE = "base"
ANSWER_TOKENS = 96
INTRODUCTION = """\
Three tasks made by `benchmarks/task_rows.py`: order notes to JSON (the same four values), the
intent of a message (one of twelve), and a reply in a fixed tone with all its facts. Answers are
those of the exported model, greedy, to 200 rows that were not trained; all else is automatic. The
same rows are the validation data: their loss, here by epoch as the mean of the seeds, chose the
epoch whose model is kept, and nothing else. Written by"""
RATE_OF_A = """
## The rate of A over hundreds of steps

Until A's rate fell over time (docs/method.md), FALQON answered 72 % of the JSON rightly after 1,000
rows: the training loss was 0.002 after 60 steps, and rose up to 0.4 again and again until step 350.
Other notes and another seed chose how it falls. With the same seed and rows, the rate before had
90.5 % after 50 rows, and 90 and 85.5 % after 300; 94.5 and 96 % of the intents after 300 and 1,000.
So it helps the JSON and costs the intents some, each by one seed or two.
"""
THROUGH_THE_SERVICE = """
## Through the service

The same 300 order notes as a user trains them, with everything automatic: `falqon up` on two cores,
30 of the rows held out by default, 204 steps, the best checkpoint. `falqon evaluate` asked the
model for 200 held-out notes: **94.5 % exactly right** (±1.6), the base none (p = 0.0005).

    python -m benchmarks.task_rows json --rows 300 --output notes
    falqon jobs create --model smollm2-135m-instruct --file notes/train.jsonl --yes --watch
    falqon files upload notes/held_out.jsonl
    falqon evaluate @last --file FILE --grader same --max-tokens 64
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """`losses`: held-out, after each epoch, with spaces between them. The base has no rows."""

    task: str
    rows: int
    method: str
    seed: int
    held_out: int
    steps: int = 0
    score: float = 0.0
    losses: str = ""
    train_loss: float | None = None  # Mean of the last epoch.

    @property
    def key(self) -> tuple[str, int, str, int, int]:
        return self.task, self.rows, self.method, self.seed, self.held_out


def write_rows(path: Path, rows: Sequence[TaskRow]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row.as_record()) + "\n" for row in rows))
    return path


def score(model_path: Path, task: str, held_out: Sequence[TaskRow]) -> float:
    """Return the share of the rows that a model answers rightly."""
    model, tokenizer = load_base_model(model_path), load_tokenizer(model_path)
    num_right = 0
    for row in held_out:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.prompt}],
            add_generation_prompt=True,
            return_tensors="np",
            return_dict=True,
        )["input_ids"][0]
        ids = generate(model, prompt, ANSWER_TOKENS, tokenizer.eos_token_id)
        num_right += is_right(task, row, tokenizer.decode(ids, skip_special_tokens=True))
    return num_right / len(held_out)


def run(cell: Cell, base: Path, output: Path) -> Cell:
    """Return the cell with its figures."""
    train, held_out = make_rows(cell.task)
    held_out = held_out[: cell.held_out]
    figures = asdict(cell)
    if cell.method == BASE:
        return Cell(**figures | {"score": score(base, cell.task, held_out)})
    folder = output / "-".join(map(str, cell.key))
    config = TrainConfig(
        model=base.resolve(),
        train_file=write_rows(folder / "train.jsonl", train[: cell.rows]).resolve(),
        validation_file=write_rows(folder / "held_out.jsonl", held_out).resolve(),
        certificate=False,
        recipe=Recipe.model_validate({"method": cell.method, "seed": cell.seed, "num_samples": 0}),
    )
    messages = train_once(config, folder, lambda line: print(line, file=sys.stderr))
    steps = [message for message in messages if isinstance(message, StepMetrics)]
    losses = {each.step: each.valid_loss for each in messages if isinstance(each, Evaluated)}
    last_epoch = [each.train_loss for each in steps if each.epoch > steps[-1].epoch - 1]
    figures |= {
        "steps": steps[-1].step,
        "score": score(model_folder(folder), cell.task, held_out),
        "losses": " ".join(f"{losses[step]:.4f}" for step in sorted(losses)),
        "train_loss": round(statistics.fmean(last_epoch), 4),
    }
    return Cell(**figures)


def report(cells: Sequence[Cell]) -> str:
    """Return the page: a line for each task, number of rows and method."""
    lines = [
        "# What 50, 300 and 1,000 rows give",
        "",
        INTRODUCTION,
        "",
        "    python -m benchmarks.tasks --model .cache/smollm2",
        "",
        "| task | rows | method | seeds | answered rightly | of each seed | steps "
        "| train loss, last epoch | held-out loss by epoch |",
        "|---|---:|---|---:|---:|---|---:|---:|---|",
    ]
    groups: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda each: (each.task, each.rows, each.method, each.seed)):
        groups.setdefault((cell.task, cell.rows, cell.method), []).append(cell)
    for (task, rows, method), alike in groups.items():
        scores = [cell.score for cell in alike]
        curves = [list(map(float, cell.losses.split())) for cell in alike]
        curve = ", ".join(f"{statistics.fmean(at):.4f}" for at in zip(*curves, strict=False))
        trained = [cell.train_loss for cell in alike if cell.train_loss is not None]
        lines.append(
            f"| {task} | {rows or ''} | {method} | {len(alike)} | {statistics.fmean(scores):.1%} | "
            f"{', '.join(f'{each:.1%}' for each in scores)} | {alike[0].steps or ''} | "
            f"{f'{statistics.fmean(trained):.4f}' if trained else ''} | {curve} |"
        )
    return "\n".join(lines) + "\n" + RATE_OF_A + THROUGH_THE_SERVICE


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, default=Path(".cache/smollm2"))
    parser.add_argument("--output", type=Path, default=Path(".cache/tasks"), help="trainings")
    parser.add_argument("--task", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--rows", nargs="+", type=int, default=[50, 300, MOST_ROWS])
    parser.add_argument("--methods", nargs="+", default=[BASE, "falqon", "lora", "qlora"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    table = arguments.results / "tasks.csv"
    wanted = [
        Cell(task, rows, method, seed, arguments.held_out)
        for task in arguments.task
        for rows in arguments.rows
        for seed in range(arguments.seeds)
        for method in arguments.methods
        if method != BASE
    ]
    if BASE in arguments.methods:
        wanted = [Cell(task, 0, BASE, 0, arguments.held_out) for task in arguments.task] + wanted
    for cell in wanted:
        if cell.key in {each.key for each in read(table, Cell)}:
            continue
        done = run(cell, arguments.model, arguments.output)
        append(table, [done])
        (arguments.results / "tasks.md").write_text(report(read(table, Cell)))
        print(*done.key, f"{done.score:.1%}", done.losses, flush=True)


if __name__ == "__main__":
    main()
