"""The speed of a training, measured apart from it."""

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.messages import StepMetrics, TrainerMessage
from falqon_core.train.state import free_memory
from falqon_core.train.trainer import Trainer

NUM_STEPS = 4  # One more step warms up before them.


def measure_speed(config: TrainConfig, folder: Path) -> float:
    """Return the median of a few steps' real tokens per second. What they write is removed from
    `folder` again. Raises the errors of `contract.errors`.
    """
    speeds: list[float] = []

    def keep_speed(message: TrainerMessage) -> None:
        if isinstance(message, StepMetrics):
            speeds.append(message.tokens_per_second)

    config = config.model_copy(update={"certificate": False})
    with TemporaryDirectory(dir=folder, prefix=".speed-") as output:
        trainer = Trainer(config, Path(output), keep_speed, lambda: len(speeds) > NUM_STEPS)
        device = trainer.state.model.device
        trainer.run()
    del trainer
    free_memory(device)
    return statistics.median(speeds[1:] or speeds)
