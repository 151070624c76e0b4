"""Host memory for copies to and from a GPU: one allocation of exactly the bytes needed, page-locked
for the card.

Copies of locked memory run beside the program and at the full rate of the bus. torch's `pin_memory`
rounds each tensor up to a power of two, 17 GB for the 13 GB of a 7B base. Here tensors lie one
behind the other, and are registered with the driver once, after they were written: until then a
page is taken only when it is written, so what was copied can be freed on the way.
"""

import sys
import weakref
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

ALIGNMENT_BYTES = 8  # No dtype needs more.
GIB = 2**30


class HostArena:
    """One block of host memory for many tensors, plain where there is no card. It is unlocked when
    the last reference to the arena goes; tensors in it stay valid.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        """`num_bytes`, see `arena_bytes`; `device` is the one that copies go to or come from."""
        self._device = device
        self._memory = torch.empty(num_bytes, dtype=torch.uint8)
        self._num_placed = 0
        self._is_locked = False

    @property
    def num_bytes(self) -> int:
        """Return the size of the block."""
        return len(self._memory)

    def place(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy of `tensor` behind those that were placed before. In locked
        memory it arrives when the device's current stream gets there.
        """
        start = self._num_placed
        end = start + tensor.nbytes
        assert end <= len(self._memory), "the arena is full"
        self._num_placed = _round_up(end)
        # uint8 bytes read as the tensor's dtype; `start` is aligned for every dtype.
        copy = self._memory[start:end].view(tensor.dtype).view(tensor.shape)
        return copy.copy_(tensor, non_blocking=self._is_locked)

    def clear(self) -> None:
        """Let the next tensors be written over those that were placed."""
        self._num_placed = 0

    def lock(self) -> bool:
        """Have the driver lock the pages. Where it refuses, they stay plain memory: copies take
        longer and are waited for, and the log says so.
        """
        if self._device.type != "cuda" or not len(self._memory):
            return False
        runtime = torch.cuda.cudart()
        status = runtime.cudaHostRegister(self._memory.data_ptr(), len(self._memory), 0)
        if int(status):
            sys.stderr.write(
                f"the driver does not lock {len(self._memory) / GIB:.2f} GiB of host memory: "
                f"{runtime.cudaGetErrorString(status)}; copies go through plain memory, slower\n"
            )
            _clear_error(self._device)
            return False
        self._is_locked = True
        # The finalizer holds the memory, so that it is not freed before it is unlocked.
        weakref.finalize(self, _unlock, self._memory)
        return True


def arena_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of an arena for `tensors`, placed in their order."""
    return sum(_round_up(tensor.nbytes) for tensor in tensors)


def _unlock(memory: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def _clear_error(device: torch.device) -> None:
    """Clear the driver's last error, which it would report with the next launch."""
    # An AssertionError comes from a torch without CUDA.
    with suppress(RuntimeError, AssertionError):
        torch.empty(1, device=device).fill_(0.0)


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
