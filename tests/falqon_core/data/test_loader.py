import json

import numpy as np
import pytest

from falqon_core.data.loader import Loader, Microbatch
from falqon_core.data.sequences import TokenSequence


def sequences(count: int) -> list[TokenSequence]:
    return [
        TokenSequence(np.full(4, index, dtype=np.int32), np.array([False, True, True, True]))
        for index in range(count)
    ]


def loader(count: int = 10, batch_size: int = 4, seed: int = 0, packing: bool = True) -> Loader:
    return Loader(sequences(count), batch_size, 8, packing, seed)


def records(step: list[Microbatch]) -> list[int]:
    return sorted({int(value) for batch in step for value in batch.input_ids.flatten()})


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_shows_every_record_once(packing: bool) -> None:
    batches = loader(packing=packing)

    steps = [records(batches.next_step()) for _ in range(batches.steps_per_epoch)]

    assert batches.steps_per_epoch == 3
    assert [len(step) for step in steps] == [4, 4, 2]
    assert sorted(record for step in steps for record in step) == list(range(10))


def test_epochs_and_seeds_differ_in_order() -> None:
    def epochs(seed: int) -> list[list[int]]:
        batches = loader(seed=seed, batch_size=1)
        return [[records(batches.next_step())[0] for _ in range(10)] for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_epoch_counts_what_is_done() -> None:
    batches = loader()
    progress = [batches.epoch]
    for _ in range(4):
        batches.next_step()
        progress.append(batches.epoch)

    assert progress == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3])


@pytest.mark.parametrize("done", [0, 1, 3, 5, 7])
def test_resuming_continues_exactly(done: int) -> None:
    whole = loader()
    for _ in range(done):
        whole.next_step()
    state = json.loads(json.dumps(whole.state_dict()))

    resumed = loader()
    resumed.load_state_dict(state)

    assert resumed.epoch == whole.epoch
    for _ in range(7):
        expected = whole.next_step()
        actual = resumed.next_step()
        assert [batch.input_ids.tolist() for batch in actual] == [
            batch.input_ids.tolist() for batch in expected
        ]


def test_no_records_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        loader(count=0)
