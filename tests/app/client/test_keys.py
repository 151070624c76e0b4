import json
import time

import pytest

from tests.app.client.conftest import Falqon, facts
from tests.support.service import Service


def create_key(falqon: Falqon, *arguments: str) -> tuple[str, str]:
    """Id and secret of a new key."""
    done = falqon("keys", "create", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    key = json.loads(done.stdout)
    return key["id"], key["secret"]


@pytest.fixture
def project(falqon: Falqon) -> str:
    return str(json.loads(falqon("projects", "create", "acme", "--json").stdout)["id"])


def test_a_key_is_shown_once_works_and_is_revoked(falqon: Falqon, service: Service) -> None:
    output = falqon("keys", "create", "for the test", "--scope", "read", "--expires-in-days", "1")
    secret = output.stdout.strip()
    assert output.stdout == f"{secret}\n"
    assert secret.startswith("ft_live_")
    remote = ("--base-url", service.url, "--api-key", secret)
    assert falqon("models", "list", *remote).exit_code == 0
    refused = falqon("files", "upload", __file__, *remote)
    assert refused.exit_code == 1
    assert "needs an API key with the right 'agent'; yours has 'read'" in refused.stderr

    listed = falqon("keys", "list")
    assert secret not in listed.stdout
    key = json.loads(falqon("keys", "list", "--limit", "1", "--json").stdout)["data"][0]
    assert (key["name"], key["scope"]) == ("for the test", "read")
    assert 0 < key["expires_at"] - time.time() <= 86_400
    assert key["id"] in listed.stdout
    assert falqon("keys", "revoke", key["id"]).stdout == f"{key['id']} is revoked.\n"
    assert falqon("models", "list", *remote).exit_code == 4
    assert key["id"] not in falqon("keys", "list").stdout
    assert falqon("keys", "revoke", key["id"]).exit_code == 3
    assert falqon("keys", "create", "never", "--expires-in-days", "0").exit_code == 2


def test_a_project_with_a_key_of_its_own(falqon: Falqon, service: Service, project: str) -> None:
    _, secret = create_key(falqon, "their admin", "--project", project, "--scope", "admin")
    theirs = ("--base-url", service.url, "--api-key", secret)
    assert [
        each["id"]
        for each in json.loads(falqon("projects", "list", "--json", *theirs).stdout)["data"]
    ] == [project]
    assert falqon("projects", "show", "proj_default", *theirs).exit_code == 3
    refused = falqon("projects", "change", project, "--max-live-jobs", "9", *theirs)
    assert refused.exit_code == 1
    assert "only an admin key of the project 'proj_default' may set this" in refused.stderr
    assert falqon("files", "list", *theirs).stdout.startswith("There are no such files")
    mine, _ = create_key(falqon, "a colleague", *theirs)
    assert (
        json.loads(falqon("keys", "list", "--project", project, "--limit", "1", "--json").stdout)[
            "data"
        ][0]["id"]
        == mine
    )

    assert "archived" in falqon("projects", "archive", project).stdout
    assert falqon("models", "list", *theirs).exit_code == 4
    assert project in falqon("projects", "list").stdout


def test_limits_are_set_changed_and_taken_away(falqon: Falqon) -> None:
    done = falqon(
        "projects",
        "create",
        "limited",
        "--weight",
        "3",
        "--requests-per-minute",
        "60",
        "--max-device-hours",
        "1.5",
        "--guaranteed-gpus",
        "16",
        "--json",
    )
    project = json.loads(done.stdout)
    assert project["guaranteed_gpus"] == 16
    changed = falqon(
        "projects",
        "change",
        project["id"],
        "--max-live-jobs",
        "2",
        "--unlimited",
        "requests-per-minute",
        "--no-evaluate",
        "--json",
    )
    expected = project | {"max_live_jobs": 2, "requests_per_minute": None, "evaluate": False}
    assert json.loads(changed.stdout) == expected
    limits = facts(falqon("projects", "show", project["id"]).stdout)
    assert {
        "weight": "3",
        "max live jobs": "2",
        "max device hours": "1.5",
        "used: live jobs": "0",
        "evaluates jobs": "no",
    }.items() <= limits.items()
    assert "requests per minute" not in limits
    both = falqon(
        "projects", "change", project["id"], "--max-live-jobs", "2", "--unlimited", "max-live-jobs"
    )
    assert both.exit_code == 2
    assert "give one of them" in both.stderr
    assert falqon("projects", "change", project["id"], "--weight", "0").exit_code == 1
