import json
from collections import deque
from collections.abc import Callable

from tests.app.client.conftest import Falqon, facts
from tests.support.receiver import receiving
from tests.support.service import Service
from tests.support.waiting import wait_for


def test_status_says_who_works_what_waits_and_what_runs(
    falqon: Falqon, submitted: Callable[..., str]
) -> None:
    job_id = submitted("--suffix", "long", steps=2000, step_seconds=0.02)
    wait_for(lambda: f"\n{job_id}\t" in falqon("status").stdout, what="it runs")
    facts_of_it = facts(falqon("status").stdout)
    assert facts_of_it["service"].endswith("/v1, ok")
    assert facts_of_it["workers"].endswith("on cpu, 1 busy")
    assert facts_of_it["jobs"].startswith("1 running, ")
    parts = json.loads(falqon("status", "--json").stdout)
    assert [job["id"] for job in parts["running"]["data"]] == [job_id]
    assert parts["readiness"]["checks"]["database"] == "ok"
    falqon("jobs", "cancel", job_id)


def test_webhooks_are_added_tried_and_deleted(falqon: Falqon, service: Service) -> None:
    event = "fine_tuning.job.failed"
    added = falqon("webhooks", "add", "https://hooks.invalid/a", "--event", event)
    assert added.exit_code == 0, added.stderr
    facts_of_it = facts(added.stdout)
    assert facts_of_it["signing secret, shown this once"].startswith("whsec_")
    assert facts_of_it["events"] == event
    hook = facts_of_it["id"]
    row = next(line for line in falqon("webhooks", "list").stdout.splitlines() if hook in line)
    assert row.split("\t")[1:4] == ["enabled", "https://hooks.invalid/a", event]
    assert falqon("webhooks", "enable", hook, "--off").stdout == f"{hook} is disabled: requested.\n"
    assert falqon("webhooks", "enable", hook).stdout == f"{hook} is enabled.\n"
    assert falqon("webhooks", "deliveries", hook).stdout == "Nothing was sent to it yet.\n"
    assert falqon("webhooks", "test", hook).exit_code == 1
    assert falqon("webhooks", "resend", hook, "whd_unknown").exit_code == 3
    assert falqon("webhooks", "delete", hook).stdout == f"{hook} is deleted.\n"
    assert falqon("webhooks", "deliveries", hook).exit_code == 3
    assert "event_types" in falqon("webhooks", "add", "https://a.org", "--event", "no").stderr


def test_a_webhook_test_fails_when_the_endpoint_refuses(falqon: Falqon) -> None:
    with receiving() as receiver:
        # Jobs of other tests end meanwhile; no model expires.
        added = falqon("webhooks", "add", receiver.url, "--event", "model.expired")
        assert added.exit_code == 0, added.stderr
        hook = facts(added.stdout)["id"]
        for status_code, exit_code in ((204, 0), (302, 1), (500, 1)):
            receiver.answers = deque([status_code])
            tested = falqon("webhooks", "test", hook)
            assert tested.stdout == f"{hook} answered {status_code}.\n"
            assert tested.exit_code == exit_code, status_code
        tested = falqon("webhooks", "test", hook, "--json")
        assert (json.loads(tested.stdout)["status_code"], tested.exit_code) == (500, 1)
        assert len(receiver.received) == 4
    falqon("webhooks", "delete", hook)


def test_prices_say_which_one_is_charged(falqon: Falqon) -> None:
    head, *rows = (line.split("\t") for line in falqon("prices").stdout.splitlines())
    assert head[:3] == ["device", "per hour", ""]
    in_force = [row[0] for row in rows if row[2] == "in force"]
    assert "cpu" in in_force
    assert len(in_force) == len(set(in_force)), "one of each device"
