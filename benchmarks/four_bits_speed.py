"""Training speed and memory of each form of weights on a CPU, in turn, as in cpu_training.py.

    python -m benchmarks.four_bits_speed --model .cache/smollm2 --data gsm8k_train.jsonl

Ours with padded batches of the same four records. The ratio is that of FP8's time, the median of
the rounds; peak memory is that of a process of its own.
"""

import sys
from pathlib import Path
from typing import get_args

import torch

from benchmarks.cpu_training import System, arguments_of, measure_speed, peaks_of, row_of
from falqon_core.contract.block_weights import Weights, title_of

PAGE = Path(__file__).parent / "results" / "four_bits_speed.md"
FORMS = {title_of(weights): System({"weights": weights}) for weights in get_args(Weights)}
FIRST = next(iter(FORMS))


def main() -> None:
    args = arguments_of(__doc__)
    peaks, rates = peaks_of(FORMS, args), measure_speed(FORMS, args)
    arguments = [Path(part).name if "/" in part else part for part in sys.argv[1:]]
    lines = [
        "# Training speed of the forms of weights, on a CPU",
        "",
        f"    python -m benchmarks.four_bits_speed {' '.join(arguments)}",
        "",
        f"SmolLM2-135M-Instruct, padded batches of 4 records, rank {args.rank}, "
        f"{args.threads} threads, torch {torch.__version__}; "
        f"{args.rounds} rounds of {args.steps} steps.",
        "",
        f"| weights | tokens/s | {FIRST} is faster by | peak memory |",
        "|---|---:|---:|---:|",
        *(row_of(name, FIRST, peaks, rates) for name in FORMS),
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
