import os
from collections.abc import Callable

from app.jobs.claims import Claim
from falqon_core.spec.messages import CheckpointSaved, Finished, Log, Sample, Sampled, encode
from falqon_core.spec.prices import default_price
from tests.support.house import House
from worker.journal import Journal
from worker.lease import Lease
from worker.progress import Progress
from worker.relay import Relay


def relayed(house: House, lines: bytes, on_checkpoint: Callable[[CheckpointSaved], None]) -> str:
    """What a trainer wrote goes into the events of the job whose id is returned."""
    supervisor = house.supervisor()
    job_id = house.add_job()
    house.set(job_id, status="running", attempt=1, lease_owner="me", lease_expires_at=house.job(job_id).created_at)
    lease = Lease(house.database, Claim(job_id, 1, "me"), lease_seconds=60, heartbeat_seconds=10, claimed_at=0, on_lost=lambda: None)
    price = default_price("cpu")
    progress = Progress(house.job(job_id), supervisor.machine, lambda: 0, price)
    relay = Relay(Journal(house.database, supervisor.redis, lease), progress, lambda _: price, on_checkpoint)
    read_end, write_end = os.pipe()
    relay.read(os.fdopen(read_end, "rb"))
    os.write(write_end, lines)
    os.close(write_end)
    relay.join(5)
    relay.flush()
    return job_id


def test_noise_on_the_pipe_is_passed_over(house: House) -> None:
    saved: list[CheckpointSaved] = []
    checkpoint = CheckpointSaved(step=1, path="/x", bytes=1, manifest_sha256="0", metrics={})
    noise = b'{"type": "nonsense"}\nnot json\n'
    job_id = relayed(house, encode(Log(text="before")) + noise + encode(checkpoint) + encode(Log(level="warn", text="after")), saved.append)
    assert [(event.message, event.level) for event in house.events(job_id)] == [("before", "info"), ("after", "warn")]
    assert saved == [checkpoint]


def test_samples_and_an_early_stop_become_events(house: House) -> None:
    sample = Sample(prompt="How many?", completion="Six.", expected="Seven.")
    finished = Finished(steps=40, trained_tokens=1, elapsed_seconds=1.0, early_stop="2 evaluations without a lower loss", best_step=20)
    job_id = relayed(house, encode(Sampled(step=40, samples=[sample])) + encode(finished), lambda _: None)
    sampled, stopped = house.events(job_id)
    assert (sampled.type, sampled.data) == ("message", {"step": 40, "samples": [sample.model_dump()]})
    assert stopped.message.startswith("Training stopped early at step 40: 2 evaluations without a lower loss")
    assert stopped.data == {"step": 40, "best_step": 20}
