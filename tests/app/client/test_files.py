import json
from collections.abc import Callable
from pathlib import Path

from tests.app.client.conftest import Falqon
from tests.support.service import Service


def test_a_file_goes_up_and_comes_back(falqon: Falqon, service: Service, toy_file: Callable[..., Path], tmp_path: Path) -> None:
    path = toy_file()
    uploaded = falqon("files", "upload", str(path), "--wait", "--json")
    assert uploaded.exit_code == 0, uploaded.stderr
    file = json.loads(uploaded.stdout)
    assert file == service.client.files.retrieve(file["id"]).to_dict()
    assert (file["filename"], file["status"]) == ("toy.jsonl", "processed")

    listed = falqon("files", "list", "--limit", "1")
    assert file["id"] in listed.stdout
    assert "processed: 1 records (text)" in listed.stdout
    assert "toy.jsonl" in falqon("files", "show", file["id"]).stdout

    assert falqon("files", "download", file["id"], "--output", str(tmp_path / "back.jsonl")).exit_code == 0
    assert (tmp_path / "back.jsonl").read_bytes() == path.read_bytes()

    assert falqon("files", "delete", file["id"]).exit_code == 0
    gone = falqon("files", "show", file["id"])
    assert gone.exit_code == 3
    assert file["id"] in gone.stderr
    assert gone.stdout == ""


def test_a_bad_file_is_told_by_line_and_column(falqon: Falqon, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    done = falqon("files", "upload", "bad.jsonl", "--wait")
    assert done.exit_code == 1
    assert "line 2, column 10" in done.stderr
    file_id = done.stderr.partition("falqon files report ")[2].split()[0]
    report = falqon("files", "report", file_id)
    assert report.exit_code == 0
    assert [line.split()[:3] for line in report.stdout.splitlines()[:2]] == [["line", "column", "field"], ["2", "10", "text"]]
    assert json.loads(falqon("files", "report", file_id, "--json").stdout)["report"]["num_errors"] == 1


def test_what_is_not_there_is_not_uploaded(falqon: Falqon) -> None:
    done = falqon("files", "upload", "nowhere.jsonl")
    assert done.exit_code == 2
    assert "nowhere.jsonl cannot be read: No such file" in done.stderr


def test_pages_go_on_where_the_last_one_ended(falqon: Falqon, toy_file: Callable[..., Path]) -> None:
    path = toy_file()
    ids = [json.loads(falqon("files", "upload", str(path), "--json").stdout)["id"] for _ in range(3)]
    first = json.loads(falqon("files", "list", "--limit", "2", "--json").stdout)
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    hint = falqon("files", "list", "--limit", "2").stdout.splitlines()[-1]
    assert hint == f"There are more: --after {ids[1]}"
    second = json.loads(falqon("files", "list", "--limit", "2", "--after", ids[1], "--json").stdout)
    assert second["data"][0]["id"] == ids[0]


def test_control_characters_of_a_name_never_reach_the_terminal(falqon: Falqon, service: Service) -> None:
    file = service.client.files.create(file=("\u202egpj.jsonl", b'{"text": "\\u001b[31m"}\n'), purpose="fine-tune")
    shown = falqon("files", "show", file.id).stdout
    assert "gpj.jsonl" in shown
    assert "\u202e" not in shown
