import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.client import polling, uploading
from app.client.api import Api
from app.client.command import Client
from app.client.connection import Connection
from app.client.errors import NoConnection
from app.client.output import Output
from tests.app.client.conftest import MAX_FILE_BYTES, Falqon, facts
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service


def test_a_file_goes_up_and_comes_back(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = fake_file()
    other = service.client.files.create(file=("notes.txt", b"text"), purpose="user_data")
    uploaded = falqon("files", "upload", str(path), "--wait", "--json")
    assert uploaded.exit_code == 0, uploaded.stderr
    file = json.loads(uploaded.stdout)
    assert file == service.client.files.retrieve(file["id"]).to_dict()
    assert (file["filename"], file["status"]) == ("fake.jsonl", "processed")

    listed = falqon("files", "list", "--limit", "1")
    assert file["id"] in listed.stdout
    assert "processed: 1 records (text)" in listed.stdout
    assert other.id not in falqon("files", "list").stdout
    assert "fake.jsonl" in falqon("files", "show", file["id"]).stdout

    assert (
        falqon("files", "download", file["id"], "--output", str(tmp_path / "back.jsonl")).exit_code
        == 0
    )
    assert (tmp_path / "back.jsonl").read_bytes() == path.read_bytes()

    assert file["id"] not in falqon("files", "list", "--purpose", "fine-tune-results").stdout
    assert file["id"] in falqon("files", "list", "--purpose", "all", "--limit", "1").stdout

    checked = falqon("files", "check", file["id"], "--wait")
    assert checked.exit_code == 0, checked.stderr
    assert "processed: 1 records (text)" in checked.stdout

    assert falqon("files", "delete", file["id"]).exit_code == 0
    gone = falqon("files", "show", file["id"])
    assert gone.exit_code == 3
    assert file["id"] in gone.stderr
    assert gone.stdout == ""


def test_a_table_becomes_lines(falqon: Falqon, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nHow many?,Two.\n")
    uploaded = falqon("files", "upload", "rows.csv", "--wait", "--json")
    assert uploaded.exit_code == 0, uploaded.stderr
    file = json.loads(uploaded.stdout)
    assert (file["filename"], file["status"]) == ("rows.jsonl", "processed")
    assert file["source"]["num_records"] == 1


def test_a_bad_file_is_told_by_line_and_column(falqon: Falqon, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    done = falqon("files", "upload", "bad.jsonl", "--wait")
    assert done.exit_code == 1
    assert "line 2, column 10" in done.stderr
    file_id = done.stderr.partition("falqon files report ")[2].split()[0]
    report = falqon("files", "report", file_id)
    assert report.exit_code == 0
    assert [line.split("\t")[:3] for line in report.stdout.splitlines()[:2]] == [
        ["line", "column", "field"],
        ["2", "10", "text"],
    ]
    assert (
        json.loads(falqon("files", "report", file_id, "--json").stdout)["report"]["num_errors"] == 1
    )


def test_a_file_says_how_its_lines_were_read(falqon: Falqon, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "How much?"}]
    answer = {"role": "assistant", "content": "Five."}
    chat = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    line = {"messages": [*chat, answer], "metadata": {"a": 1}}
    texts = [json.dumps(line), json.dumps(line), '{"text": "plain"}']
    (tmp_path / "logs.jsonl").write_text("\n".join(texts))
    file_id = json.loads(falqon("files", "upload", "logs.jsonl", "--json").stdout)["id"]
    assert falqon("files", "report", file_id, "--model", "falqon-tiny").exit_code == 1
    for command in ("show", "report"):
        printed = facts(falqon("files", command, file_id).stdout)
        assert printed["lines of shape"] == (
            "messages: 2, the first is line 1; text: 1, the first is line 3"
        )
        rewrites = {"developer role in 2 records", "text parts in 2 records"}
        assert set(printed["rewritten"].split(", ")) == rewrites
        assert printed["ignored"] == "metadata in 2 records"
    names = ("shape", "records", "characters that the model reads", "answers that are learned")
    assert list(printed)[:6] == [*names, "bad lines", "first line of another shape"]


def test_a_missing_file_is_not_uploaded(falqon: Falqon) -> None:
    done = falqon("files", "upload", "nowhere.jsonl")
    assert done.exit_code == 2
    assert "nowhere.jsonl cannot be read: No such file" in done.stderr


def test_a_pipe_is_not_uploaded(falqon: Falqon) -> None:
    reader, writer = os.pipe()
    done = falqon("files", "upload", f"/dev/fd/{reader}")
    os.close(reader)
    os.close(writer)
    assert done.exit_code == 2
    assert f"/dev/fd/{reader} is a pipe" in done.stderr


def test_a_lost_answer_does_not_end_the_wait_for_a_check(
    falqon: Falqon, proxy: Proxy, fake_file: Callable[..., Path]
) -> None:
    proxy.lose = "GET /v1/files/"
    path = str(fake_file())
    done = falqon("files", "upload", path, "--wait", "--base-url", proxy.url, "--api-key", KEY)
    assert done.exit_code == 0, done.stderr
    assert proxy.lost == 1
    assert "processed" in done.stdout


def test_a_service_that_stays_away_during_a_check_leaves_the_id_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Api, "repeat_after_seconds", (0.01,))
    monkeypatch.setattr(polling, "POLL_TIMEOUT_SECONDS", 0.0)
    client = Client(Api(Connection("http://127.0.0.1:1/v1", KEY)), Output(as_json=False))
    with pytest.raises(NoConnection) as caught:
        uploading.checked(client, {"id": "file-1", "status": "uploaded"})
    assert caught.value.hint.endswith("falqon files show file-1")
    client.api.close()


def test_pages_go_on_where_the_last_one_ended(
    falqon: Falqon, fake_file: Callable[..., Path]
) -> None:
    path = fake_file()
    ids = [
        json.loads(falqon("files", "upload", str(path), "--json").stdout)["id"] for _ in range(3)
    ]
    first = json.loads(falqon("files", "list", "--limit", "2", "--json").stdout)
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    hint = falqon("files", "list", "--limit", "2").stderr.splitlines()[-1]
    assert hint == f"There are more: --after {ids[1]}"
    second = json.loads(falqon("files", "list", "--limit", "2", "--after", ids[1], "--json").stdout)
    assert second["data"][0]["id"] == ids[0]


def test_control_characters_of_a_name_never_reach_the_terminal(
    falqon: Falqon, service: Service
) -> None:
    file = service.client.files.create(
        file=("\u202egpj.jsonl", b'{"text": "\\u001b[31m"}\n'), purpose="fine-tune"
    )
    output = falqon("files", "show", file.id).stdout
    assert "gpj.jsonl" in output
    assert "\u202e" not in output


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Larger than what the service takes in one request."""
    path = tmp_path / "large.jsonl"
    lines = (json.dumps({"text": f"{number} " + "word " * 200}) + "\n" for number in range(700))
    path.write_text("".join(lines))
    assert path.stat().st_size > MAX_FILE_BYTES + 2**16
    return path


def test_a_file_too_large_for_one_request_is_uploaded_in_parts(
    falqon: Falqon, service: Service, proxy: Proxy, large_file: Path, tmp_path: Path
) -> None:
    done = falqon(
        "files",
        "upload",
        "large.jsonl",
        "--wait",
        "--json",
        "--base-url",
        proxy.url,
        "--api-key",
        KEY,
    )
    assert done.exit_code == 0, done.stderr
    file = json.loads(done.stdout)
    assert file == service.client.files.retrieve(file["id"]).to_dict()
    assert (file["filename"], file["status"], file["report"]["num_records"]) == (
        "large.jsonl",
        "processed",
        700,
    )
    assert len(proxy.heads("POST /v1/files")) == len(proxy.heads("POST /v1/uploads HTTP")) == 1
    assert falqon("files", "download", file["id"], "--output", "back.jsonl").exit_code == 0
    assert (tmp_path / "back.jsonl").read_bytes() == large_file.read_bytes()


@pytest.mark.parametrize("lost", ["/parts", "/complete"])
def test_a_lost_answer_to_a_part_costs_that_part_only(
    falqon: Falqon,
    service: Service,
    proxy: Proxy,
    large_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    monkeypatch.setattr(uploading, "PART_BYTES", 2**18)
    num_parts = -(-large_file.stat().st_size // 2**18)
    proxy.lose = f"POST /v1/uploads/[^/]+{lost}"
    done = falqon(
        "files", "upload", "large.jsonl", "--json", "--base-url", proxy.url, "--api-key", KEY
    )
    assert done.exit_code == 0, done.stderr
    assert proxy.lost == 1
    sent = [
        head.split(" ")[1].rpartition("/")[2]
        for head in proxy.requests
        if head.startswith("POST /v1/uploads/")
    ]
    assert sent.count("parts") == num_parts + (lost == "/parts")
    assert sent.count("complete") == 1 + (lost == "/complete")
    assert (
        service.client.files.content(json.loads(done.stdout)["id"]).read()
        == large_file.read_bytes()
    )


def test_a_report_for_a_model_counts_tokens_and_finds_what_is_cut_copied_and_leaked(
    falqon: Falqon, service: Service, tmp_path: Path
) -> None:
    records = [
        {"text": "one two three four"},
        {"text": "five six seven"},
        {"text": "five six seven"},
        {"text": "many " * 40},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "valid.jsonl").write_text(
        json.dumps(records[0]) + "\n" + json.dumps({"text": "something else altogether"}) + "\n"
    )
    train, valid = (
        json.loads(falqon("files", "upload", f"{name}.jsonl", "--wait", "--json").stdout)["id"]
        for name in ("train", "valid")
    )
    command = (
        "files",
        "report",
        train,
        "--model",
        "falqon-tiny",
        "--max-seq-length",
        "32",
        "--validation-file",
        valid,
    )

    answer = json.loads(falqon(*command, "--json").stdout)
    (inspection,) = answer["inspections"]
    query = {"model": "falqon-tiny", "max_seq_length": 32, "validation_file": valid}
    assert answer == service.client.get(
        f"/files/{train}/report", cast_to=object, options={"params": query}
    )
    result = inspection["result"]
    assert (inspection["status"], result["truncated"], result["split"]) == ("completed", 0, 1)

    report = facts(falqon(*command).stdout)
    assert report["tokens"].startswith(f"{inspection['result']['tokens_per_epoch']:,} an epoch")
    assert report["truncated"].startswith("0 of 4 records lose ")
    assert report["split"] == f"1 of 4 records; {result['sequences']} sequences"
    assert report["copies"] == "1 (line 3 like 2)"
    assert report["also in it"] == "1 (line 1 like 1)"
    assert report["line 1"] == "one« two· three· four·<|im_end|>»"
    # what is known already is told without asking
    assert "copies" in falqon("files", "report", train).stdout


def test_a_report_for_a_model_that_cannot_be(falqon: Falqon, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": 3}\n')
    file_id = json.loads(falqon("files", "upload", "bad.jsonl", "--json").stdout)["id"]
    failed = falqon("files", "report", file_id, "--model", "falqon-tiny")
    assert failed.exit_code == 1
    assert "falqon-tiny: The file is not valid: line 1, column 10, text" in failed.stderr
    assert "write text in quotes" in failed.stdout
    assert falqon("files", "report", file_id, "--model", "nobody/knows").exit_code == 3
    assert "param model" in falqon("files", "report", file_id, "--max-seq-length", "32").stderr
