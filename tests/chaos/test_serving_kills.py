"""Engine, worker and API are killed under streams: what comes next is answered, nothing stays
behind, and no project sees another's words.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from app.catalogue.importer import TINY_MODEL_ID
from app.models import Artifact
from tests.chaos.askers import Asker, LetterVoice, add_letters, asking
from tests.chaos.conftest import Count
from tests.chaos.scale import SCALE, every_run_on
from tests.chaos.serving import RECOVERY_SECONDS, Serving, serving_on
from tests.support.backend import Backend
from tests.support.waiting import wait_for

LETTERS = "ABCD"
VICTIMS = ("engines", "worker", "api")
PAUSE_SECONDS = (0.2, 1.0)


@pytest.fixture
def serving(backend: Backend) -> Iterator[Serving]:
    with serving_on(backend) as serving:
        yield serving


@pytest.fixture
def voices(backend: Backend, serving: Serving) -> list[LetterVoice]:
    is_tokenizer = (Artifact.model_id == TINY_MODEL_ID, Artifact.name == "tokenizer.json")
    with backend.database.read() as session:
        key = session.scalars(select(Artifact.storage_key).where(*is_tokenizer)).one()
    vocabulary = json.loads(backend.storage.read(key) or b"")["model"]["vocab"]
    return add_letters(backend, vocabulary, LETTERS)


@every_run_on("sqlite")
def test_killed_under_streams(
    serving: Serving, voices: list[LetterVoice], rng: random.Random, count: Count
) -> None:
    next_one = Asker(serving.api.url, voices[0], voices)
    wait_for(lambda: next_one.ask() == "answered", RECOVERY_SECONDS, "the model is loaded")
    askers = [
        Asker(serving.api.url, voices[number % len(voices)], voices)
        for number in range(SCALE.asking_streams)
    ]
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(SCALE.serving_kills)]
    rng.shuffle(victims)
    killed: Counter[str] = Counter()
    with asking(askers):
        for victim in victims:
            time.sleep(rng.uniform(*PAUSE_SECONDS))
            killed[victim] += serving.kill(victim)
            wait_for(lambda: next_one.ask() == "answered", RECOVERY_SECONDS, f"after {victim}")
    outcomes = sum((asker.counts for asker in (*askers, next_one)), Counter[str]())
    count(**killed, **{name.replace(" ", "_"): number for name, number in outcomes.items()})
    assert [fault for asker in (*askers, next_one) for fault in asker.faults] == []
    assert killed.total() == len(victims)
    serving.check_end(1, voices)
