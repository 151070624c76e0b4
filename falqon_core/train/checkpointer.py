"""When a checkpoint is written, and by whom."""

from collections.abc import Callable
from pathlib import Path

from falqon_core.contract.messages import CheckpointSaved, Message
from falqon_core.train.checkpoint import save_checkpoint
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.state import TrainState


class Checkpointer:
    def __init__(
        self,
        output: Path,
        saved_step: int,
        send: Callable[[Message], None],
        group: ProcessGroup,
    ) -> None:
        """`saved_step`: the step that the checkpoint on disk has, 0 where there is none."""
        self._output = output
        self._saved_step = saved_step
        self._send = send
        self._group = group

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, unless this very step is on disk already or there is no step yet."""
        if state.progress.step == self._saved_step:
            return
        self._saved_step = state.progress.step
        self._group.check_same(state.method.state())
        with self._group.barrier_or_raise():
            if self._group.is_rank0:
                self._write(state)

    def _write(self, state: TrainState) -> None:
        progress = state.progress
        saved = save_checkpoint(self._output, state.checkpoint(), progress.recipe.keep_checkpoints)
        self._send(
            CheckpointSaved(
                step=progress.step,
                path=str(saved.path),
                bytes=saved.num_bytes,
                manifest_sha256=saved.manifest_sha256,
                metrics=progress.metrics,
            )
        )
