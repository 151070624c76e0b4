"""A melded model that is larger than a device: each rank stores a part of the rows of every layer
(row_shard.py), and the layer that is computed has all of them for as long as it is.

Two buffers hold the rows of two layers. While one layer computes from the first, the rows of the
next one, in backward of the one before, arrive in the second, sent by the ranks that store them.
Only codes are sent (on a CPU the dequantized values): A, B and all scales are on every rank. A
refresh rebuilds the rows that a rank stores from the part of the base beside them, and then the
ranks exchange their scales. The same products read the same rows as without shards, so a training
has the same bits.

Every rank takes part in every exchange, so all run through the layers equally often (`run`), and a
rank without records, or one that fails, goes through them without computing. Where only the first
rank computes, to sample or to export, the others follow it (`follow`). What is given up: all rows
travel twice in each pass over tokens, forward and backward. Two layers at the turn, the last of the
forward pass, are still there and are not sent again.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.packed_weight import PackedWeight
from falqon_core.meld.row_shard import RowShard

NUM_BUFFERS = 2
FORWARD = 1
BACKWARD = -1
END = -1  # The command that ends `follow`.


class Ranks(Protocol):
    """The processes that store a shard each. All call every method in the same order."""

    rank: int
    size: int

    def start_gather(self, whole: Tensor, own: Tensor) -> Callable[[], None]:
        """Begin to fill `whole` [size n] from `own` [n] of each rank, both uint8; return a function
        that waits until it is filled, as seen by the device's current stream.
        """

    def all_reduce_sum_tensor(self, values: Tensor) -> None:
        """Sum in place over ranks."""

    def barrier_or_raise(self) -> AbstractContextManager[None]:
        """Leave the block together; an error of one rank is raised on all."""

    def tell(self, number: int) -> int:
        """Return the `number` of rank 0."""


@dataclass
class _GatherBuffer:
    """`memory` uint8 on the device, for the rows of `layer`; `wait` until they are there."""

    memory: Tensor
    layer: int | None = None
    wait: Callable[[], None] | None = None


class ShardedLayers:
    """The decoder layers of one model, in the order in which they are computed."""

    def __init__(self, model: PreTrainedModel, ranks: Ranks) -> None:
        """`model` is melded in shards of `ranks`."""
        layers = list(model.base_model.layers)
        self._ranks = ranks
        self._weights = [_packed_weights(layer) for layer in layers]
        most = max(sum(map(_gathered_bytes, weights)) for weights in self._weights)
        device = self._weights[0][0].scale.device
        self._buffers = [
            _GatherBuffer(torch.empty(most, dtype=torch.uint8, device=device))
            for _ in range(NUM_BUFFERS)
        ]
        # The turns through the layers that are due in this run: (layer, direction).
        self._turns: list[tuple[int, int]] = []
        self._is_leading = False
        for index, (layer, weights) in enumerate(zip(layers, self._weights, strict=True)):
            for weight in weights:
                weight.borrow = self._borrower(index)
            layer.register_forward_pre_hook(self._before(index))
            layer.register_forward_hook(self._after(index))

    @contextmanager
    def run(self, trains: bool) -> Iterator[None]:
        """Run the model once in the block, forward and, if it `trains`, backward, at the same time
        as all ranks. Where the block computes nothing, or fails, this rank still sends its rows.
        """
        indices = range(len(self._weights))
        self._turns = [(index, FORWARD) for index in indices]
        if trains:
            self._turns += [(index, BACKWARD) for index in reversed(indices)]
        try:
            yield
        finally:
            while self._turns:
                self._take_turn(*self._turns[0])

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Let the first rank compute in the block whatever it likes; the others `follow`."""
        self._is_leading = True
        try:
            yield
        finally:
            self._is_leading = False
            self._forget()
            self._ranks.tell(END)

    def follow(self) -> None:
        """Send the rows that the first rank asks for, until it leaves the block of `lead`."""
        while (index := self._ranks.tell(END)) != END:
            self._gather(index)
        self._forget()

    def publish(self, changed: Tensor | None = None) -> None:
        """Exchange the scales of rows that were rebuilt, and add up over ranks the number of values
        `changed`, int64 [], in place.
        """
        self._forget()
        weights = [weight for layer in self._weights for weight in layer]
        own = torch.cat([_own_scales(weight) for weight in weights])
        size = self._ranks.size
        whole = own.new_empty(size, len(own))
        self._ranks.start_gather(whole.view(-1).view(torch.uint8), own.view(torch.uint8))()
        capacities = [weight.shard.capacity(weight.num_outputs) for weight in weights]
        for weight, scales in zip(weights, whole.split(capacities, 1), strict=True):
            # [size, capacity] of all ranks, one behind the other; the last may be filled up.
            weight.scale[: weight.num_outputs, 0] = scales.reshape(-1)[: weight.num_outputs]
        if changed is not None:
            self._ranks.all_reduce_sum_tensor(changed)

    def discard(self) -> None:
        """Forget the rows that were gathered, since those that are stored change now."""
        self._forget()

    def _before(self, index: int) -> Callable[..., None]:
        def use(*_: Any) -> None:
            self._take_turn(index, FORWARD)

        return use

    def _after(self, index: int) -> Callable[..., None]:
        def use(_: Tensor) -> None:
            self._take_turn(index, BACKWARD)

        def watch(_: nn.Module, __: Any, output: Tensor) -> None:
            # The gradient of the output arrives before anything of the layer's backward begins.
            if output.requires_grad:
                output.register_hook(use)

        return watch

    def _borrower(self, index: int) -> Callable[[], None]:
        def borrow() -> None:
            self._bring(index)

        return borrow

    def _take_turn(self, index: int, direction: int) -> None:
        """Have the rows of layer `index` there, and those of the next layer on their way."""
        if not self._is_leading:
            assert (index, direction) in self._turns, "a sharded model is computed in a run only"
            # Layers of which no gradient is asked are passed over in the order of all.
            while self._turns[0] != (index, direction):
                self._take_turn(*self._turns[0])
            del self._turns[0]
        current = self._bring(index)
        following = index + direction
        if 0 <= following < len(self._weights) and self._buffer_of(following) is None:
            (other,) = (buffer for buffer in self._buffers if buffer is not current)
            self._start(following, other)

    def _bring(self, index: int) -> _GatherBuffer:
        """Return the buffer of layer `index`, whose rows are lent to its weights."""
        buffer = self._buffer_of(index)
        if buffer is None:
            # Not the buffer of the layer before, which may be asked for again.
            buffer = next((each for each in self._buffers if each.layer is None), self._buffers[0])
            self._start(index, buffer)
        if buffer.wait is not None:
            buffer.wait()
            buffer.wait = None
            for weight, memory in self._parts(index, buffer):
                rows = memory.view(weight.stored.dtype).view(-1, weight.in_features)
                weight.lend(rows[: len(weight.scale)])
        return buffer

    def _start(self, index: int, buffer: _GatherBuffer) -> None:
        """Begin to gather the rows of layer `index` into `buffer`. Work on the rows that are there
        has been launched, and the copies come after it.
        """
        if self._is_leading:
            self._ranks.tell(index)
        self._empty(buffer)
        buffer.layer = index
        waits = []
        for weight, memory in self._parts(index, buffer):
            own = weight.stored[: weight.shard.capacity(weight.num_outputs)]
            own_bytes = own.view(torch.uint8).view(-1)
            whole = memory[: self._ranks.size * len(own_bytes)]
            waits.append(self._ranks.start_gather(whole, own_bytes))

        def wait() -> None:
            for each in waits:
                each()

        buffer.wait = wait

    def _gather(self, index: int) -> None:
        buffer = self._buffers[0]
        self._start(index, buffer)
        if buffer.wait is not None:
            buffer.wait()
            buffer.wait = None

    def _forget(self) -> None:
        for buffer in self._buffers:
            if buffer.wait is not None:
                buffer.wait()
            self._empty(buffer)

    def _empty(self, buffer: _GatherBuffer) -> None:
        if buffer.layer is not None:
            for weight in self._weights[buffer.layer]:
                weight.take_back()
        buffer.layer = buffer.wait = None

    def _buffer_of(self, index: int) -> _GatherBuffer | None:
        return next((buffer for buffer in self._buffers if buffer.layer == index), None)

    def _parts(self, index: int, buffer: _GatherBuffer) -> Iterator[tuple[PackedWeight, Tensor]]:
        """Yield the weights of a layer, each with its part of the buffer, uint8."""
        start = 0
        for weight in self._weights[index]:
            end = start + _gathered_bytes(weight)
            yield weight, buffer.memory[start:end]
            start = end


def shard_of(ranks: Ranks) -> RowShard:
    """Return the part of every group's rows that this rank stores."""
    return RowShard(ranks.rank, ranks.size)


def _packed_weights(layer: nn.Module) -> list[PackedWeight]:
    linears = [module for module in layer.modules() if isinstance(module, MeldedLinear)]
    return list(dict.fromkeys(linear.packed for linear in linears))


def _gathered_bytes(weight: PackedWeight) -> int:
    """Return the bytes of all rows [sum O + n r .., I], or of those that arrive where the filling
    of the last rank makes them more.
    """
    capacity = weight.shard.capacity(weight.num_outputs)
    num_rows = max(len(weight.scale), weight.shard.size * capacity)
    return num_rows * weight.in_features * weight.stored.itemsize


def _own_scales(weight: PackedWeight) -> Tensor:
    """Return the scales of the rows that are stored here, fp32, filled up as the rows are."""
    capacity = weight.shard.capacity(weight.num_outputs)
    own = weight.shard.rows(weight.num_outputs)
    scales = weight.scale.new_ones(capacity)
    scales[: own.stop - own.start] = weight.scale[own, 0]
    return scales
