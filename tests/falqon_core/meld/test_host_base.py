"""Where no GPU is, its part is taken by the CPU, and its streams by those of streams.py."""

import gc

import pytest
import torch

from falqon_core.meld.host_arena import HostArena, arena_bytes
from falqon_core.meld.host_base import HostBase
from tests.falqon_core.meld.streams import Card, card

__all__ = ["card"]

CPU = torch.device("cpu")
NUM_COLUMNS = 8
BLOCK_BYTES = 2 * NUM_COLUMNS * 2  # two rows of bf16
# blocks of 2, 2 and 1 rows, of 2 and 1, and of 2 and 2: every weight meets both buffers
NUM_ROWS = (5, 3, 4)
NUM_BLOCKS = 7
# to wait, to move, to record
ENTRIES = 3


class Driver:
    """What locks memory, and refuses more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, num_bytes: int, _flags: int) -> int:
        if num_bytes > self.limit:
            return 2
        self.locked[address] = num_bytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0

    def cudaGetErrorString(self, _status: int) -> str:
        return "out of memory"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(limit=1000)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    return driver


def test_tensors_in_an_arena_are_what_was_placed(driver: Driver) -> None:
    torch.manual_seed(0)
    tensors = [
        torch.randn(5, 3).bfloat16(),
        torch.randn(4, 6).t(),
        torch.tensor(7.0),
        torch.randn(9).to(torch.float8_e4m3fn),
        torch.empty(0, 3),
        torch.arange(4),
    ]
    arena = HostArena(arena_bytes(tensors), CPU)
    for _ in range(2):
        copies = [arena.place(tensor) for tensor in tensors]
        for tensor, copy in zip(tensors, copies, strict=True):
            assert copy.is_contiguous()
            assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(copy.float(), tensor.float())
        arena.clear()
    assert arena.num_bytes == 32 + 96 + 8 + 16 + 0 + 32
    arena.lock()
    assert not driver.locked, "without a card it is plain memory"


def test_no_more_is_locked_than_is_needed_and_no_longer(driver: Driver) -> None:
    arena = HostArena(500, torch.device("cuda"))
    copy = arena.place(torch.ones(3))
    arena.lock()
    assert list(driver.locked.items()) == [(copy.data_ptr(), 500)]
    del arena
    gc.collect()
    assert not driver.locked
    assert copy.tolist() == [1, 1, 1]


def test_memory_that_the_driver_does_not_lock_stays_plain(
    driver: Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = HostArena(2**30, torch.device("cuda"))
    assert not arena.lock()
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not lock 1.00 GiB of host memory: out of memory" in line
    assert arena.place(torch.ones(3)).tolist() == [1, 1, 1]
    assert not driver.locked


class Reading:
    """All of a base copied to the device and read there, launched and not yet carried out."""

    def __init__(self, card: Card) -> None:
        torch.manual_seed(0)
        self.weights = [torch.randn(rows, NUM_COLUMNS).bfloat16() for rows in NUM_ROWS]
        self.results = [torch.zeros_like(weight) for weight in self.weights]
        with card:
            host = HostBase(arena_bytes(self.weights), CPU, BLOCK_BYTES)
            card.program.finish()
            base = [host.place(weight) for weight in self.weights]
            card.program.finish()
            for values, result in zip(base, self.results, strict=True):
                for at, block in host.blocks(values):
                    result[at].copy_(block)
        self.program = card.program
        (self.copies,) = card.others
        self.copies.go_on(1)  # it waits for the program once, in the beginning
        self._num_before = self.program.done, self.copies.done

    @property
    def num_read(self) -> int:
        return (self.program.done - self._num_before[0]) // ENTRIES

    @property
    def num_copied(self) -> int:
        return (self.copies.done - self._num_before[1]) // ENTRIES

    def assert_read(self) -> None:
        assert self.num_read == self.num_copied == NUM_BLOCKS
        for weight, result in zip(self.weights, self.results, strict=True):
            assert torch.equal(weight, result)


def test_a_block_is_read_after_it_has_arrived(card: Card) -> None:
    reading = Reading(card)
    for number in range(NUM_BLOCKS):
        reading.program.go_on()
        assert reading.num_read == number
        reading.copies.go_on(ENTRIES)
        assert reading.num_copied == number + 1
    reading.program.go_on()
    reading.assert_read()


def test_two_blocks_arrive_while_none_is_read_and_none_is_overwritten(card: Card) -> None:
    reading = Reading(card)
    for number in range(NUM_BLOCKS):
        reading.copies.go_on()
        assert reading.num_copied == min(number + 2, NUM_BLOCKS)
        reading.program.go_on(ENTRIES)
        assert reading.num_read == number + 1
    reading.assert_read()
