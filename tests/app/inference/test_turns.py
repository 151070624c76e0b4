"""Projects that wait for an engine take turns."""

import asyncio
from collections.abc import Coroutine

import pytest

from app.base.errors import RateLimited
from app.inference.in_flight import AnswersInFlight
from app.inference.turns import EngineQueue, EngineTurn


async def start(*waiting: Coroutine[None, None, EngineTurn]) -> list[asyncio.Task[EngineTurn]]:
    tasks = [asyncio.create_task(each) for each in waiting]
    await asyncio.sleep(0)
    return tasks


def test_the_project_with_the_fewest_answers_has_the_next_turn() -> None:
    turns: list[str] = []

    async def take_turns() -> None:
        queue = EngineQueue(max_answers=3)

        async def take(project_id: str) -> EngineTurn:
            turn = await queue.take(project_id)
            turns.append(project_id)
            return turn

        first = await asyncio.gather(*map(take, "aaa"))
        waiting = await start(*map(take, "aaabcb"))
        for turn in first:
            turn.release()
            turn.release()  # once is enough
            await asyncio.sleep(0)
        assert turns[3:] == ["b", "c", "a"]
        for _ in waiting:
            for task in waiting:
                if task.done():
                    task.result().release()
            await asyncio.sleep(0)
        assert sorted(turns[3:]) == sorted("aaabcb")
        assert queue.is_idle

    asyncio.run(take_turns())


def test_who_goes_away_takes_no_turn() -> None:
    async def go_away() -> None:
        queue = EngineQueue(max_answers=1)
        first = await queue.take("a")
        early, late, last = await start(*map(queue.take, ["a", "b", "c"]))
        early.cancel()
        await asyncio.sleep(0)
        first.release()
        late.cancel()  # its turn has just come
        (await last).release()
        assert queue.is_idle

    asyncio.run(go_away())


def test_a_key_waits_for_so_many_answers_at_once() -> None:
    in_flight = AnswersInFlight()
    with in_flight.hold("key", 512, 100):  # however many, where they are the only ones
        with pytest.raises(RateLimited), in_flight.hold("key", 1, 100):
            pass
        with in_flight.hold("other", 1, 100):
            pass
    with in_flight.hold("key", 60, 100), in_flight.hold("key", 40, 100):
        pass
