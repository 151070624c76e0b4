r"""What the anchored rule loses when its base is kept in eight bits instead of bf16.

    python -m benchmarks.base_copy --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

The trainings of benchmarks/learning.py with the default A: the same steps from the same start, with
the base as it came, in int8, and in e4m3, which is no option of the trainer. Prints one line a
training; losses do not depend on how busy the machine is.
"""

import argparse
from pathlib import Path

from torch import Tensor

from benchmarks.learning import FROZEN_A, STEPS, SYSTEMS, Files, System, Training, train
from falqon_core.contract.recipe_options import BaseCopy
from falqon_core.meld import linear
from falqon_core.meld.base import BaseWeight, keep_base
from falqon_core.meld.host_base import HostBase
from falqon_core.ops.quantize import quantize_rows

RATE = 5e-4


def keep_e4m3(weight: Tensor, base_copy: BaseCopy, host: HostBase | None = None) -> BaseWeight:
    """Round the base to the grid of the rows."""
    return BaseWeight(quantize_rows(weight)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--model", "--train", "--test"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--bases", nargs="+", default=["device", "int8", "e4m3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=100)
    args = parser.parse_args()
    for seed in args.seeds:
        for base in args.bases:
            linear.keep_base = keep_e4m3 if base == "e4m3" else keep_base  # type: ignore[attr-defined]
            base_copy = "device" if base == "e4m3" else base
            SYSTEMS[base] = System(SYSTEMS[FROZEN_A].recipe | {"base_copy": base_copy}, (RATE,))
            training = Training(base, RATE, seed, STEPS, args.rows)
            *_, last = train(training, Files(args.model, args.train, args.test), 1)
            print(f"{base}, seed {seed}: {last['test_loss']}", flush=True)


if __name__ == "__main__":
    main()
