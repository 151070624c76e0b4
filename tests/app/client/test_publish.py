"""`falqon publish` as a user runs it, with Hugging Face's own library, to a hub that speaks the
protocol.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.client.conftest import Falqon
from tests.support import hub as stub
from tests.support.hub import HubServer
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service

MODEL = "falqon-tiny"
Publish = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with stub.serving() as hub:
        yield hub


@pytest.fixture
def publish(service: Service, hub: HubServer, tmp_path: Path) -> Publish:
    """In a process of its own: the library reads its variables when it is imported."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "FALQON_", "OPENAI_"))
        }
        service_variables = {
            "FALQON_DATA_DIR": str(service.folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        environment = (
            outside | service_variables | hub.environment(str(tmp_path / "hf")) | variables
        )
        command = service.command("publish", *arguments)
        return subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


def sha256_of(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_every_file_arrives_in_one_commit(publish: Publish, hub: HubServer, tmp_path: Path) -> None:
    done = publish(MODEL, "hf:acme/support")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"falqon-tiny: 7 files are at {hub.url}/acme/support, commit 000")
    again = publish(MODEL, "hf:acme/support", "--json")
    result = json.loads(again.stdout)
    repository = hub.repositories["acme/support"]
    assert sha256_of(repository.files) == {file["name"]: file["sha256"] for file in result["files"]}
    assert (repository.private, len(repository.commits)) == (False, 2)
    assert len(hub.large) >= 1
    assert len([line for line in hub.requests if line.startswith("PUT")]) == len(hub.large), (
        "what is there is not sent again"
    )
    assert not list(tmp_path.glob(".*.publish"))


def test_a_broken_publication_is_resumed(
    publish: Publish, hub: HubServer, service: Service, tmp_path: Path
) -> None:
    hub.refuse_large = 507
    with Proxy(service.port) as proxy:
        where = {"FALQON_BASE_URL": proxy.url, "FALQON_API_KEY": KEY}
        broken = publish(MODEL, "hf:acme/support", **where)
        assert broken.returncode == 1
        assert "did not take the model (507): Out of space." in broken.stderr
        assert "Run the same command again" in broken.stderr
        assert hub.repositories["acme/support"].files == {}
        num_fetched = len(proxy.heads("GET /v1/models/falqon-tiny/artifacts/"))
        done = publish(MODEL, "hf:acme/support", **where)
        assert done.returncode == 0, done.stderr
        assert len(proxy.heads("GET /v1/models/falqon-tiny/artifacts/")) == num_fetched + 1, (
            "the manifest alone is asked for again"
        )
    assert len(hub.repositories["acme/support"].files) == 7


def test_a_token_without_write_access_is_reported_and_not_shown(
    publish: Publish, hub: HubServer, tmp_path: Path
) -> None:
    for token, owner, status in (("hf_wrong_token", "acme", 401), (stub.TOKEN, "somebody", 403)):
        refused = publish(MODEL, f"hf:{owner}/support", HF_TOKEN=token)
        assert refused.returncode == 4, refused.stderr
        assert f"does not let this token write there ({status})" in refused.stderr
        assert "HF_TOKEN" in refused.stderr
        assert token not in refused.stdout + refused.stderr
    assert hub.repositories == {}
    assert not list(tmp_path.glob(".*.publish")), "nothing is downloaded before it can be uploaded"


def test_a_public_repository_stays_public(publish: Publish, hub: HubServer) -> None:
    assert publish(MODEL, "hf:acme/closed", "--private").returncode == 0
    assert hub.repositories["acme/closed"].private
    assert publish(MODEL, "hf:acme/closed", "--private").returncode == 0
    hub.repositories["acme/open"] = stub.Repository(private=False)
    refused = publish(MODEL, "hf:acme/open", "--private")
    assert (refused.returncode, hub.repositories["acme/open"].files) == (1, {})
    assert "is public; nothing was uploaded" in refused.stderr


def test_a_wrong_publication_is_refused_before_any_upload(publish: Publish, hub: HubServer) -> None:
    cases = {
        ("nobody/knows", "hf:acme/support"): (3, "nobody/knows"),
        (MODEL, "some/folder"): (2, "falqon download MODEL --output FOLDER"),
        (MODEL, "hf:a/b/c"): (2, "a/b/c"),
    }
    for arguments, (code, words) in cases.items():
        refused = publish(*arguments)
        assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
    assert hub.requests == []
    silent = publish(MODEL, "hf:acme/support", HF_ENDPOINT="http://127.0.0.1:1")
    assert (silent.returncode, "http://127.0.0.1:1 cannot be reached" in silent.stderr) == (
        4,
        True,
    ), silent.stderr


def test_a_card_that_the_hub_does_not_take_is_told(
    publish: Publish, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stub,
        "_check_front_matter",
        lambda readme: (400, {"errors": [{"message": '"license" is not one'}]}),
    )
    refused = publish(MODEL, "hf:acme/support")
    assert (refused.returncode, '"license" is not one' in refused.stderr) == (1, True), (
        refused.stderr
    )


def test_publish_without_huggingface_hub_names_the_package_to_install(
    falqon: Falqon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused = falqon("publish", MODEL, "hf:acme/support")
    assert refused.exit_code == 1
    assert "pip install 'huggingface-hub>=1'" in refused.stderr
