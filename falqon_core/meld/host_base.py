"""The base of a GPU's training in host memory, and its way to the device: blocks of rows, each
copied while the one before is used.

Copies have a stream of their own and two buffers on the device, for all weights of the model: the
first block of a weight is copied while the last one of the weight before it is used. A copy waits
for the kernels that read its buffer, two blocks back; kernels that read a block wait for its copy;
the program waits for neither.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from falqon_core.estimate.memory import HOST_BLOCK_BYTES
from falqon_core.meld.host_arena import HostArena
from falqon_core.ops.quantize import row_blocks

NUM_BUFFERS = 2


@dataclass(frozen=True)
class _Buffer:
    """`memory` uint8 on the device. Both events are recorded again with each block."""

    memory: Tensor
    is_filled: torch.cuda.Event
    is_free: torch.cuda.Event


class HostBase(HostArena):
    """Host memory for the bases of a model, read by the device in blocks of rows."""

    def __init__(
        self, num_bytes: int, device: torch.device, block_bytes: int = HOST_BLOCK_BYTES
    ) -> None:
        """A block has at most `block_bytes`."""
        super().__init__(num_bytes, device)
        self._block_bytes = block_bytes
        self._buffers = [
            _Buffer(
                torch.empty(block_bytes, dtype=torch.uint8, device=device),
                torch.cuda.Event(),
                torch.cuda.Event(),
            )
            for _ in range(NUM_BUFFERS)
        ]
        self._num_copied = 0
        self._stream = torch.cuda.Stream(device)
        # The allocator may have given memory that the current stream's work still uses.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def blocks(self, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of `values` [O, I], which was placed here, in blocks on the device. Launch
        the kernels that read a block on the current stream, before the next block is taken.
        """
        reader = torch.cuda.current_stream(self._device)
        for at in row_blocks(values.shape, self._block_bytes // values.itemsize):
            rows = values[at]
            buffer = self._buffers[self._num_copied % NUM_BUFFERS]
            self._num_copied += 1
            # [rows, I] in the base's dtype, over the bytes of the buffer.
            block = buffer.memory[: rows.nbytes].view(rows.dtype).view(rows.shape)
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(buffer.is_free)
                block.copy_(rows, non_blocking=True)
                buffer.is_filled.record(self._stream)
            reader.wait_event(buffer.is_filled)
            yield at, block
            buffer.is_free.record(reader)
