"""Training of one model by several processes, one device each, started by torchrun; a single
process is a group of one, which sends nothing.

Every rank knows the whole step, and holds the whole model or, of one that no device holds, its
shard (meld/sharded_layers.py). It computes the records of its share,
balanced by tokens; the gradients of the deltas are summed in one all-reduce, and from there on all
ranks do the same: the same clipping, the same optimizer step, the same refresh of the same rows.
Weights that are not sharded are never sent, and only the first rank writes or reports.

All ranks also end alike. Every small exchange carries a place for "I have failed", so an error on
one rank is raised on all of them by the next exchange, and none waits for one that has failed. A
rank that vanishes breaks the connection, or the time limit. The first rank may export a model for
hours while the others wait: they do so in a gloo group of its own with another limit, and its end
breaks that connection as well. What is given up: the all-reduce is not hidden behind the backward
pass, since O x r fp32 numbers per linear are little beside the backbone.
"""

import heapq
import itertools
import os
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from falqon_core.contract.errors import ConfigError, FalqonError, as_falqon_error
from falqon_core.meld.sharded_layers import ShardedLayers

# Longer than rank 0 takes to write a checkpoint while the others wait.
EXCHANGE_TIME_LIMIT = timedelta(minutes=10)
# Longer than rank 0 takes to export a model and have it certified.
RANK0_TIME_LIMIT = timedelta(days=7)
NUM_VALUES = 8  # The numbers of one small exchange.
# torch 2.11 knows the old name only, and newer ones warn of it.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")
S = TypeVar("S", bound=Sized)


class ProcessGroup:
    """This process among `size`. Every method that takes part in an exchange must be called by all
    ranks in the same order.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        rank0_waits: dist.ProcessGroup | None = None,
    ) -> None:
        """`device` is this rank's own; default: the CPU. In the group `rank0_waits` ranks wait for
        the first one when it computes alone; default: the group of all exchanges.
        """
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")
        # True once no exchange is possible: the ranks have failed together, or one is lost.
        self._ended = size == 1
        self._rank0_waits = rank0_waits
        # Weak, so that a model that is released is gone.
        self._shards: weakref.ref[ShardedLayers] | None = None

    @property
    def is_rank0(self) -> bool:
        """True on the rank that reports and writes."""
        return self.rank == 0

    def share(self, records: Sequence[S]) -> list[S]:
        """Return the records of a step that this rank computes, in their order: possibly none."""
        return [
            records[index]
            for index in shares([len(record) for record in records], self.size)[self.rank]
        ]

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Return the sums over ranks of at most `NUM_VALUES` numbers. Raises the error of another
        rank that has failed, or `FalqonError` where one is lost.
        """
        if self.size == 1:
            return list(values)
        return self._exchange(values)

    def any_rank(self, value: bool) -> bool:
        """Return True where `value` is true on any rank."""
        return self.all_reduce_sum(value)[0] > 0

    def all_reduce_sum_tensor(self, values: Tensor) -> None:
        """Sum in place over ranks, any shape.

        Call `all_reduce_sum` or leave `barrier_or_raise` right before it, so that no rank fails in
        between.
        """
        if self.size > 1:
            self._all_reduce(values)

    def start_gather(self, whole: Tensor, own: Tensor) -> Callable[[], None]:
        """Begin to fill `whole` [size n] from `own` [n] of each rank, both uint8 on its device;
        return a function that waits for it.
        """
        with self._no_rank_lost():
            if self._ended:
                raise RuntimeError("no exchange is possible")
            work = _all_gather(whole, own, async_op=True)

        def wait() -> None:
            with self._no_rank_lost():
                work.wait()

        return wait

    def tell(self, number: int) -> int:
        """Return the `number` of rank 0 on every rank, however long that takes."""
        with self._no_rank_lost():
            if self._ended:
                raise RuntimeError("no exchange is possible")
            message = torch.tensor([number])
            dist.broadcast(message, src=0, group=self._rank0_waits)
        return int(message)

    def compute_sharded(self, shards: ShardedLayers) -> None:
        """Have the model of these `shards` computed by all ranks at the same time, for as long as
        there is such a model.
        """
        self._shards = weakref.ref(shards)

    @property
    def is_sharded(self) -> bool:
        """True while the ranks store one model together."""
        return self._sharded_layers() is not None

    def _sharded_layers(self) -> ShardedLayers | None:
        return None if self._shards is None else self._shards()

    def in_step(self, items: Sequence[T]) -> Iterator[T | None]:
        """Yield the `items`. Where a model is sharded None follows until no rank has any left, so
        that all compute it equally often.
        """
        if not self.is_sharded:
            yield from items
            return
        for index in itertools.count():
            is_left = index < len(items)
            if not self.any_rank(is_left):
                return
            yield items[index] if is_left else None

    def run(self, trains: bool) -> AbstractContextManager[None]:
        """Compute the model once in the block, or not at all where other ranks do: forward, and
        backward if it `trains`.
        """
        shards = self._sharded_layers()
        return nullcontext() if shards is None else shards.run(trains)

    @contextmanager
    def rank0_alone(self) -> Iterator[bool]:
        """Yield True on the first rank, which may compute the model in the block; on the others
        False. All leave it together, however long it takes; an error of one is raised on all.
        """
        shards = self._sharded_layers()
        with self._leave_together(self._rank0_waits):
            if shards is None:
                yield self.is_rank0
            elif self.is_rank0:
                with shards.lead():
                    yield True
            else:
                shards.follow()
                yield False

    def all_reduce_max_tensor(self, values: Tensor | None) -> None:
        """Take the largest of all ranks in place, any shape; nothing for None.

        The condition of `all_reduce_sum_tensor` holds here as well.
        """
        if self.size > 1 and values is not None:
            self._all_reduce(values, dist.ReduceOp.MAX)

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over ranks, as one flat fp32 buffer of which they become views; none
        counts as zero.

        The condition of `all_reduce_sum_tensor` holds here as well.
        """
        if self.size == 1:
            return
        trained = list(parameters)
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in trained
        ]
        # One buffer, so one all-reduce: O r numbers a linear, and r I where A trains.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in trained])
        for parameter, part in zip(trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    @contextmanager
    def barrier_or_raise(self) -> Iterator[None]:
        """Let no rank leave the block before all have reached its end; an error of one is raised on
        all.
        """
        with self._leave_together():
            yield

    @contextmanager
    def _leave_together(self, group: dist.ProcessGroup | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._ended:
                self._exchange((), as_falqon_error(error), group)
            raise
        if not self._ended:
            self._exchange((), group=group)

    def rank0_first(self, action: Callable[[], T]) -> T:
        """Run `action` on the first rank, and only then on the others, which find the changes of
        the first.
        """
        if self.is_rank0:
            with self.barrier_or_raise():
                return action()
        with self.barrier_or_raise():
            pass
        return action()

    def check_same(self, tensors: Mapping[str, Tensor]) -> None:
        """Compare the tensors of all ranks. Raises `FalqonError` on all of them where the bits
        differ.
        """
        if self.size == 1:
            return
        mine = _digest(tensors)
        with self.barrier_or_raise():
            if self.all_reduce_sum(mine) != [self.size * mine]:
                raise FalqonError(
                    "the processes of this training hold different models; nothing of it is kept"
                )

    def _exchange(
        self,
        values: Sequence[float],
        error: FalqonError | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> list[float]:
        # fp64 [1 + NUM_VALUES]: the first counts the ranks that have failed.
        sums = torch.zeros(1 + NUM_VALUES, dtype=torch.float64)
        sums[0] = error is not None
        sums[1 : 1 + len(values)] = torch.tensor(values, dtype=torch.float64)
        self._all_reduce(sums, group=group)
        if sums[0] > 0:
            self._fail_together(error)
        return sums[1 : 1 + len(values)].tolist()

    def _fail_together(self, error: FalqonError | None) -> NoReturn:
        self._ended = True
        errors: list[FalqonError | None] = [None] * self.size
        with self._no_rank_lost():
            dist.all_gather_object(errors, error)
        raise next(failure for failure in errors if failure is not None)

    def _all_reduce(
        self,
        values: Tensor,
        operation: dist.ReduceOp = dist.ReduceOp.SUM,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        with self._no_rank_lost():
            dist.all_reduce(values, operation, group)

    @contextmanager
    def _no_rank_lost(self) -> Iterator[None]:
        try:
            yield
        # RuntimeError is all that torch raises when a connection breaks or time is up.
        except RuntimeError as error:
            self._ended = True
            raise FalqonError(
                f"process {self.rank} of {self.size} has lost another process of this training"
            ) from error


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the group that torchrun's environment variables describe, and leave it at the end;
    without them a group of one.

    Small exchanges go through gloo on the CPU, gradients through the backend of their device (NCCL
    on CUDA). Raises `ConfigError` when variables are missing, `FalqonError` when not all ranks
    arrive in time.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    if missing := [name for name in _VARIABLES if not os.environ.get(name)]:
        raise ConfigError(
            f"{missing[0]}: WORLD_SIZE asks for several processes, but {missing[0]} is not set; "
            "start them with torchrun"
        )
    rank = int(os.environ["RANK"])
    size = int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=EXCHANGE_TIME_LIMIT
        )
        rank0_waits = dist.new_group(backend="gloo", timeout=RANK0_TIME_LIMIT)
    except RuntimeError as error:
        raise FalqonError(f"process {rank} of {size} has not found the others") from error
    try:
        yield ProcessGroup(rank, size, device, rank0_waits)
    finally:
        dist.destroy_process_group()


def shares(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the indices of `lengths`, each once, in `size` shares of about the same sum: the
    longest first, to the share that is smallest so far.
    """
    result: list[list[int]] = [[] for _ in range(size)]
    loads = [(0, rank) for rank in range(size)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, rank = loads[0]
        result[rank].append(index)
        heapq.heapreplace(loads, (load + lengths[index], rank))
    return [sorted(share) for share in result]


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """Return 32 bits that depend on every bit of the tensors."""
    result = 0
    for name in sorted(tensors):
        result = zlib.crc32(
            tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), result
        )
    return result
