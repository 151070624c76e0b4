"""What huggingface_hub asks and what it makes of the answers."""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from huggingface_hub import HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.app.hub.conftest import CHECKPOINT, KEY, RECORDS, TUNED, Hub


def sha256_of(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_snapshot_is_the_model_to_the_byte(hub: Hub, tmp_path: Path) -> None:
    listing = hub.server.http.get(f"/v1/models/{TUNED}/artifacts").json()["data"]
    expected = {file["name"]: file["sha256"] for file in listing}
    for cached in (True, False):
        place = {"cache_dir": tmp_path / "cache"} if cached else {"local_dir": tmp_path / "local"}
        folder = snapshot_download(hub.tuned, endpoint=hub.endpoint, token=KEY, **place)
        hashes = {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        assert {
            name: digest for name, digest in hashes.items() if not name.startswith(".cache")
        } == expected


def test_a_model_is_found_by_its_hub_id(hub: Hub) -> None:
    models = {
        model["id"]: model["hub_id"] for model in hub.server.http.get("/v1/models").json()["data"]
    }
    assert models["falqon-tiny"] == "falqon-tiny"
    assert models[TUNED] == hub.tuned == "ft/falqon-tiny-first-0011aabb"
    base = hub.api().model_info("falqon-tiny")
    tuned = hub.api().model_info(hub.tuned, files_metadata=True)
    assert (base.private, tuned.private) == (False, True)
    assert base.sha == tuned.sha, "the same files are the same commit"
    weights = next(file for file in tuned.siblings or [] if file.rfilename == "model.safetensors")
    assert weights.lfs is not None
    assert (weights.size, len(weights.lfs.sha256)) == (weights.lfs.size, 64)
    assert hub.api().repo_exists(hub.tuned)
    assert hub.api().file_exists(hub.tuned, "config.json")
    assert not hub.api().file_exists(hub.tuned, "missing.json")
    assert hub.api().whoami()["auth"]["accessToken"]["role"] == "admin"


def test_each_checkpoint_that_is_a_model_is_a_revision(hub: Hub, tmp_path: Path) -> None:
    refs = hub.api().list_repo_refs(hub.tuned)
    assert [(ref.name, ref.ref) for ref in refs.branches + refs.tags] == [
        ("main", "refs/heads/main"),
        (CHECKPOINT, f"refs/tags/{CHECKPOINT}"),
    ]
    commits = [ref.target_commit for ref in refs.branches + refs.tags]
    assert len(set(commits)) == 2
    for revision in (CHECKPOINT, commits[1]):
        path = hf_hub_download(
            hub.tuned,
            "extra/notes.txt",
            revision=revision,
            endpoint=hub.endpoint,
            token=KEY,
            cache_dir=tmp_path / revision,
        )
        assert Path(path).read_text() == "after four steps"
        assert Path(path).parents[1].name == commits[1]
    tree = {entry.path for entry in hub.api().list_repo_tree(hub.tuned, revision=CHECKPOINT)}
    assert {"extra", "config.json"} <= tree
    assert "extra/notes.txt" not in tree
    assert [
        entry.path
        for entry in hub.api().list_repo_tree(hub.tuned, "extra", revision=CHECKPOINT, expand=True)
    ] == ["extra/notes.txt"]
    paths = hub.api().get_paths_info(
        hub.tuned, ["config.json", "extra", "missing"], revision=CHECKPOINT
    )
    assert [entry.path for entry in paths] == ["config.json", "extra"]
    with pytest.raises(EntryNotFoundError):
        list(hub.api().list_repo_tree(hub.tuned, "extra"))


def test_a_missing_model_or_file_is_refused_as_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    def get(
        repo: str, name: str = "config.json", revision: str = "main", key: str | bool = KEY
    ) -> str:
        return hf_hub_download(
            repo, name, revision=revision, endpoint=hub.endpoint, token=key, cache_dir=tmp_path
        )

    for repo in ("nobody/knows", "ft/falqon-tiny-first-99999999", "unknown"):
        with pytest.raises(RepositoryNotFoundError):
            get(repo)
    with pytest.raises(RevisionNotFoundError):
        get(hub.tuned, revision="ckpt-step-5")
    with pytest.raises(RevisionNotFoundError):
        get(hub.tuned, revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        get(hub.tuned, "missing.json")
    assert list(tmp_path.rglob(".no_exist/*/missing.json")), "it need not be asked for again"


@pytest.mark.parametrize("odd", ["\r\n", "\r", "\n", "\v", "\x1b", "\x7f", "é", "\u2028"])
def test_a_refusal_is_one_printable_line_whatever_its_address_holds(hub: Hub, odd: str) -> None:
    path = quote(f"{hub.tuned}/resolve/no{odd}version/config.json")
    answer = httpx.head(f"{hub.endpoint}/{path}", headers={"authorization": f"Bearer {KEY}"})
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RevisionNotFound")
    message = answer.headers["x-error-message"]
    assert re.fullmatch("[ -~]+", message)
    assert re.search("no.version", message)


def test_nobody_else_gets_in(hub: Hub, tmp_path: Path) -> None:
    def get(repo: str, key: str | bool, repo_type: str = "model") -> str:
        name = "config.json" if repo_type == "model" else "rows.jsonl"
        return hf_hub_download(
            repo, name, repo_type=repo_type, endpoint=hub.endpoint, token=key, cache_dir=tmp_path
        )

    assert Path(get("falqon-tiny", hub.stranger)).exists(), "base models are everybody's"
    for repo, kind in ((hub.tuned, "model"), (hub.file, "dataset")):
        with pytest.raises(RepositoryNotFoundError) as theirs:
            get(repo, hub.stranger, kind)
        assert theirs.value.response.status_code == 404
        with pytest.raises(RepositoryNotFoundError) as anonymous:
            get(repo, False, kind)
        assert anonymous.value.response.status_code == 401
        with pytest.raises(HfHubHTTPError, match="Invalid credentials") as wrong:
            hub.api("ft_live_nonsense").repo_info(repo, repo_type=kind)
        assert wrong.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub.api("nonsense").whoami()


def test_reading_goes_on_in_the_middle(hub: Hub) -> None:
    url = f"{hub.endpoint}/{hub.tuned}/resolve/main/model.safetensors"
    headers = {"authorization": f"Bearer {KEY}"}
    head = httpx.head(url, headers=headers)
    assert head.headers["etag"] == head.headers["x-linked-etag"]
    assert head.headers["x-linked-size"] == head.headers["content-length"]
    assert len(head.headers["x-repo-commit"]) == 40
    assert head.headers["cache-control"] == "private, no-cache"
    by_commit = httpx.head(
        url.replace("/main/", f"/{head.headers['x-repo-commit']}/"), headers=headers
    )
    assert by_commit.headers["cache-control"].endswith("immutable")
    whole = httpx.get(url, headers=headers).content
    part = httpx.get(
        url, headers=headers | {"range": "bytes=1000-1999", "if-range": head.headers["etag"]}
    )
    assert (part.status_code, part.content) == (206, whole[1000:2000])
    with HfFileSystem(endpoint=hub.endpoint, token=KEY, skip_instance_cache=True).open(
        f"{hub.tuned}/model.safetensors"
    ) as file:
        file.seek(5000)
        assert file.read(100) == whole[5000:5100]
    metadata = hub.api().get_safetensors_metadata(hub.tuned)
    assert sum(metadata.parameter_count.values()) > 100_000


def test_an_uploaded_file_is_a_dataset(hub: Hub, tmp_path: Path) -> None:
    path = hf_hub_download(
        hub.file,
        "rows.jsonl",
        repo_type="dataset",
        endpoint=hub.endpoint,
        token=KEY,
        cache_dir=tmp_path,
    )
    assert Path(path).read_bytes() == RECORDS
    assert [file.rfilename for file in hub.api().dataset_info(hub.file).siblings or []] == [
        "rows.jsonl"
    ]
    nameless = hub.server.http.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("upload", RECORDS)}
    ).json()["id"]
    assert hub.api().list_repo_files(f"files/{nameless}", repo_type="dataset") == ["upload.jsonl"]
