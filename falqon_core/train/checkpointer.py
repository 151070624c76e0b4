"""The writer of checkpoints, beside the steps where there is a GPU.

On a GPU the state is copied to locked host memory where the step ends; a thread waits for the copy,
and hashes and writes it while the next steps are computed. One is written at a time: the next save
waits for the one before. A checkpoint is reported once its folder is whole, between steps or at the
end, and a failure to write it is raised there as well. On a CPU the thread would take its time from
the steps, so each save writes before it returns. What is given up: host memory for one state.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from falqon_core.contract.messages import CheckpointSaved, TrainerMessage
from falqon_core.meld.host_arena import HostArena, arena_bytes
from falqon_core.train.checkpoint import TrainingState, save_checkpoint
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.state import TrainState


class Checkpointer:
    """The writer of one training; leaving its context waits for the last checkpoint."""

    def __init__(
        self,
        output: Path,
        saved_step: int,
        send: Callable[[TrainerMessage], None],
        group: ProcessGroup,
        device: torch.device,
        in_background: bool,
    ) -> None:
        """`saved_step`: the step that the checkpoint on disk has, 0 where there is none. `device`:
        where the state lies.
        """
        self._output = output
        self._saved_step = saved_step
        self._send = send
        self._group = group
        self._device = device
        self._writer = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._written: Future[CheckpointSaved] | None = None
        self._copies: HostArena | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise the writer's error, unless another one is on its way."""
        try:
            self._wait()
        except Exception:
            if error is None:
                raise
        finally:
            self._copies = None
            if self._writer is not None:
                self._writer.shutdown()

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, unless this very step is on disk already or there is no step yet."""
        if state.progress.step == self._saved_step:
            return
        self._saved_step = state.progress.step
        self._group.check_same(state.method.state())
        with self._group.barrier_or_raise():
            if self._group.is_rank0:
                self._save(state)

    def report(self) -> None:
        """Report the checkpoint whose writing has ended since the last call, if there is one.
        Raises the error of its writing; called by all ranks, before their next exchange.
        """
        if self._written is not None and self._written.done():
            self._wait()

    def _save(self, state: TrainState) -> None:
        if self._writer is None:
            self._send(self._write(state.checkpoint()))
            return
        self._wait()
        checkpoint = self._copy(state.checkpoint())
        arrival = None
        if self._device.type == "cuda":
            arrival = torch.cuda.Event()
            arrival.record()

        def write() -> CheckpointSaved:
            if arrival is not None:
                arrival.synchronize()
            return self._write(checkpoint)

        self._written = self._writer.submit(write)

    def _wait(self) -> None:
        if (written := self._written) is not None:
            self._written = None
            self._send(written.result())

    def _write(self, checkpoint: TrainingState) -> CheckpointSaved:
        progress = checkpoint.progress
        saved = save_checkpoint(self._output, checkpoint, progress.recipe.keep_checkpoints)
        return CheckpointSaved(
            step=progress.step,
            path=str(saved.path),
            bytes=saved.num_bytes,
            manifest_sha256=saved.manifest_sha256,
            metrics=progress.metrics,
        )

    def _copy(self, checkpoint: TrainingState) -> TrainingState:
        """Return a copy of the state as it is now, unchanged by the next steps; the program does
        not wait for the copies.
        """
        progress, method, optimizer = checkpoint
        num_bytes = arena_bytes([*method.values(), *optimizer.values()])
        if self._copies is None or self._copies.num_bytes != num_bytes:
            self._copies = HostArena(num_bytes, self._device)
            self._copies.lock()
        self._copies.clear()
        return TrainingState(
            progress.model_copy(deep=True),
            _placed(method, self._copies),
            _placed(optimizer, self._copies),
        )


def _placed(tensors: dict[str, Tensor], arena: HostArena) -> dict[str, Tensor]:
    return {name: arena.place(tensor) for name, tensor in tensors.items()}
