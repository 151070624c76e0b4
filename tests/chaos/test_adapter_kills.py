"""Engines of several adapters over one base are killed under streams: each next answer is its own
model's, nothing stays behind, and no project sees another's words.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.base.ids import new_id
from app.catalogue.importer import TINY_MODEL_ID
from tests.chaos.askers import Asker, ModelVoice, add_project, asking
from tests.chaos.conftest import Count
from tests.chaos.scale import SCALE, every_run_on
from tests.chaos.serving import RECOVERY_SECONDS, Serving, serving_on
from tests.support.adapters import add_adapter, random_adapter, tiny_gguf
from tests.support.backend import Backend
from tests.support.llama_cpp import certain_answer
from tests.support.waiting import wait_for

VICTIMS = ("engine", "engines", "worker")
PAUSE_SECONDS = (0.2, 1.0)
NUM_TOKENS = 20
NUM_CANARIES = 4000  # to adapter 18, one in 160 has an answer whose every token is certain


@pytest.fixture
def serving(backend: Backend) -> Iterator[Serving]:
    with serving_on(backend) as serving:
        yield serving


@pytest.fixture
def voices(backend: Backend, serving: Serving, tmp_path: Path) -> list[ModelVoice]:
    """Adapters of as many projects, with the answers that llama.cpp gives to their canaries."""
    gguf = tiny_gguf(tmp_path / "base")
    voices = []
    for number in range(SCALE.adapters):
        project_id, key = add_project(backend, f"adapter {number}")
        name = f"ft:{TINY_MODEL_ID}:acme::{number}:gguf_lora"
        adapter = random_adapter(gguf.parent, number)
        add_adapter(backend.database, backend.storage, project_id, name, TINY_MODEL_ID, adapter)
        canaries = [new_id(f"canary-{number}-") for _ in range(NUM_CANARIES)]
        questions = [[{"role": "user", "content": canary}] for canary in canaries]
        chosen, answer = certain_answer(gguf, adapter, questions, NUM_TOKENS)
        voices.append(ModelVoice(name, answer, NUM_TOKENS, canaries[chosen], key))
    assert len({voice.answer for voice in voices}) == len(voices)
    return voices


@every_run_on("sqlite")
def test_killed_under_streams_of_several_adapters(
    serving: Serving, voices: list[ModelVoice], rng: random.Random, count: Count
) -> None:
    next_ones = [Asker(serving.api.url, voice, voices) for voice in voices]
    askers = [
        Asker(serving.api.url, voices[number % len(voices)], voices)
        for number in range(SCALE.adapter_streams)
    ]
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(SCALE.adapter_kills)]
    rng.shuffle(victims)
    killed: Counter[str] = Counter()

    def wait_for_all(when: str) -> None:
        for asker in next_ones:
            wait_for(lambda asker=asker: asker.ask() == "answered", RECOVERY_SECONDS, when)

    wait_for_all("all are loaded")
    with asking(askers):
        for victim in victims:
            time.sleep(rng.uniform(*PAUSE_SECONDS))
            killed[victim] += serving.kill(victim)
            wait_for_all(f"after {victim}")
    wait_for_all("in the end")
    outcomes = sum((asker.counts for asker in (*askers, *next_ones)), Counter[str]())
    count(**killed, **{name.replace(" ", "_"): number for name, number in outcomes.items()})
    assert [fault for asker in (*askers, *next_ones) for fault in asker.faults] == []
    assert killed.total() == len(victims)
    serving.check_end(len(voices), voices)
