"""An endless, resumable stream of optimizer steps over a list of sequences or pairs.

A step is `batch_size` records (the last of an epoch may have fewer), cut into microbatches. Each
epoch has its own order, drawn from a counter-based generator keyed by (seed, epoch), so the whole
position is two integers and resuming is exact. Nothing is packed across steps: microbatches would
be fuller, but packing would decide what a step is.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from falqon_core.data.microbatch import Microbatch, microbatches
from falqon_core.data.sequences import Item

__all__ = ["Loader", "Microbatch", "microbatches", "row_multiple"]

# Packed rows on a GPU have a multiple of this length, so that kernels see sizes that are multiples
# of 16. What fills them is computed like the rest: with 256, 6 % of the packed load of `bench`.
GPU_ROW_MULTIPLE = 16


def row_multiple(device: torch.device) -> int:
    """Return the number of tokens to a multiple of which packed rows are filled up."""
    return GPU_ROW_MULTIPLE if device.type == "cuda" else 1


def order_of_epoch(num_sequences: int, seed: int, epoch: int) -> np.ndarray:
    """Return the indices of the sequences in the order in which an epoch reads them, int64 [N]."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_sequences)


class Loader:
    """`next_step()` never ends; `epoch` counts epochs done, as a float."""

    def __init__(
        self,
        sequences: Sequence[Item],
        batch_size: int,
        microbatch_tokens: int,
        packing: bool,
        seed: int,
        multiple_of: int = 1,
    ) -> None:
        if not sequences:
            raise ValueError("a loader needs at least one sequence")
        self._sequences = sequences
        self._batch_size = batch_size
        self._microbatch_tokens = microbatch_tokens
        self._packing = packing
        self._seed = seed
        self._multiple_of = multiple_of
        self.steps_per_epoch = math.ceil(len(sequences) / batch_size)
        self._start(epoch=0, step=0)

    @property
    def epoch(self) -> float:
        """Return the epochs done so far, with fractions."""
        return self._epoch + self._step / self.steps_per_epoch

    def next_step(self) -> list[Microbatch]:
        """Return the microbatches of the next optimizer step."""
        return self.microbatches(self.next_records())

    def microbatches(self, records: Sequence[Item]) -> list[Microbatch]:
        """`records` of one step as this loader's settings cut them."""
        return microbatches(records, self._microbatch_tokens, self._packing, self._multiple_of)

    def next_records(self) -> list[Item]:
        """Return the records of the next optimizer step."""
        start = self._step * self._batch_size
        chosen = [self._sequences[index] for index in self._order[start : start + self._batch_size]]
        if self._step + 1 < self.steps_per_epoch:
            self._step += 1
        else:
            self._start(self._epoch + 1, step=0)
        return chosen

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch, and step within it."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken; the sequences and arguments must be the same."""
        self._start(state["epoch"], state["step"])

    def _start(self, epoch: int, step: int) -> None:
        self._epoch = epoch
        self._step = step
        self._order = order_of_epoch(len(self._sequences), self._seed, epoch)
