import os

from app.jobs.claims import Claim
from falqon_core.spec.messages import CheckpointSaved, Log, encode
from tests.support.house import House
from worker.journal import Journal
from worker.lease import Lease
from worker.progress import Progress
from worker.relay import Relay


def test_noise_on_the_pipe_is_passed_over(house: House) -> None:
    supervisor = house.supervisor()
    job_id = house.add_job()
    house.set(job_id, status="running", attempt=1, lease_owner="me", lease_expires_at=house.job(job_id).created_at)
    lease = Lease(house.database, Claim(job_id, 1, "me"), lease_seconds=60, heartbeat_seconds=10, claimed_at=0, on_lost=lambda: None)
    saved: list[CheckpointSaved] = []
    relay = Relay(
        Journal(house.database, supervisor.redis, lease), Progress(house.job(job_id), supervisor.machine, lambda: 0), saved.append
    )
    read_end, write_end = os.pipe()
    relay.read(os.fdopen(read_end, "rb"))
    checkpoint = CheckpointSaved(step=1, path="/x", bytes=1, manifest_sha256="0", metrics={})
    os.write(
        write_end,
        encode(Log(text="before")) + b'{"type": "nonsense"}\nnot json\n' + encode(checkpoint) + encode(Log(level="warn", text="after")),
    )
    os.close(write_end)
    relay.join(5)
    relay.flush()
    assert [(event.message, event.level) for event in house.events(job_id)] == [("before", "info"), ("after", "warn")]
    assert saved == [checkpoint]
