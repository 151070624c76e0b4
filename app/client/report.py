"""What the check of a file found, and what the file is to a model."""

import time
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import Any

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import Refused

POLL_SECONDS = (0.2, 0.5, 1.0, 2.0)
MAX_WAIT_SECONDS = 1800.0  # large files take a worker minutes
EXAMPLES = 3


def asked_for(client: Client, file_id: str, query: Mapping[str, Any]) -> Json:
    """The report; where it is asked what the file is to a model, once a worker has found that out."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    for pause in chain(POLL_SECONDS, repeat(POLL_SECONDS[-1])):
        answer = client.api.get(f"/files/{segment(file_id)}/report", query)
        asked = answer["inspections"] if query.get("model") else []
        if all(each["status"] != "in_progress" for each in asked):
            return answer
        if time.monotonic() > deadline:
            raise Refused(f"{file_id} is still not looked at after {MAX_WAIT_SECONDS:.0f} s.", "The same command asks again.")
        time.sleep(pause)
    raise AssertionError("the pauses never end")


def show_report(client: Client, answer: Json) -> None:
    """Raises `Refused` behind it where a question about a model could not be answered."""
    if client.out.as_json:
        client.out.document(answer)
    else:
        _show_check(client, answer)
        for inspection in answer["inspections"]:
            if inspection["result"] is not None:
                client.out.say("")
                client.out.facts(dict(_facts(inspection)))
    for inspection in answer["inspections"]:
        if inspection["status"] == "failed":
            raise Refused(f"{inspection['model']}: {inspection['error']['message']}", f"code {inspection['error']['code']}")


def _show_check(client: Client, answer: Json) -> None:
    report: Json | None = answer["report"]
    if report is None:
        client.out.say(f"{answer['id']} is not checked yet; ask again.")
        return
    if errors := report["errors"]:
        columns = ("line", "column", "field", "what is wrong", "what to do")
        client.out.table(columns, ([error[name] for name in ("line", "column", "field", "message", "advice")] for error in errors))
    client.out.facts({_words(name): value for name, value in report.items() if isinstance(value, int | float | str)})


def _facts(inspection: Json) -> Iterator[tuple[str, object]]:
    result = inspection["result"]
    yield "model", inspection["model"]
    yield "tokens", f"{result['tokens_per_epoch']:,} an epoch, {result['target_tokens_per_epoch']:,} of them learned"
    yield "longest record", f"{result['longest']:,} tokens; half of them have at most {result['median']:,.0f}"
    cut = f"{result['truncated']:,} of {result['records']:,} records lose {result['tokens_cut']:,} tokens"
    yield "truncated", f"{cut} at max_seq_length {result['max_seq_length']:,}"
    yield "nothing to learn in", result["records_without_targets"] or ""
    yield "copies", _alike(result["duplicates"]["exact"])
    yield "near copies", _alike(result["duplicates"]["near"])
    if leakage := result["leakage"]:
        yield "validation file", inspection["validation_file"]
        yield "also in it", _alike(leakage["exact"])
        yield "nearly in it", _alike(leakage["near"])
    yield "bad records", result["bad_records"] or ""
    for number, error in enumerate(result["errors"], 1):
        yield f"error {number}", error
    for number, warning in enumerate(result.get("warnings", ()), 1):  # none from a service that is older
        yield f"warning {number}", warning["message"]


def _alike(found: Json) -> str:
    pairs = ", ".join(f"line {each['line']} like {each['like_line']}" for each in found["examples"][:EXAMPLES])
    more = ", …" if found["records"] > EXAMPLES else ""
    return f"{found['records']:,}" + (f" ({pairs}{more})" if pairs else "")


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")
