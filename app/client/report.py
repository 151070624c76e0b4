"""Reports on a file: the result of its check, and its statistics under a model."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, groupby, repeat
from typing import Any

from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client
from app.client.errors import Refused
from app.client.polling import poll

POLL_SECONDS = (0.2, 0.5, 1.0, 2.0)
MAX_WAIT_SECONDS = 1800.0  # large files take a worker minutes
EXAMPLES = 3
PREVIEWS = 2  # Records that are shown token by token.
# Figures of the check, with their labels.
FACTS = {
    "shape": "shape",
    "num_records": "records",
    "num_characters": "characters that the model reads",
    "num_learned_turns": "answers that are learned",
    "num_errors": "bad lines",
    "mixed_at_line": "first line of another shape",
    "given_up_at_line": "check ended at line",
}


def asked_for(client: Client, file_id: str, query: Mapping[str, Any]) -> Json:
    """Return the report of a file; waits for the worker where a model is named."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    path = f"/files/{segment(file_id)}/report"
    answer = client.api.get(path, query)
    for pause in chain(POLL_SECONDS, repeat(POLL_SECONDS[-1])):
        inspections = answer["inspections"] if query.get("model") else []
        if all(each["status"] != "in_progress" for each in inspections):
            return answer
        if time.monotonic() > deadline:
            raise Refused(
                f"{file_id} has not been inspected after {MAX_WAIT_SECONDS:.0f} s.",
                "Run the same command again.",
            )
        time.sleep(pause)
        answer = poll(client, path, query, how_to_go_on="Run the same command again.")
    raise AssertionError("the pauses never end")


def show_report(client: Client, answer: Json) -> None:
    """Raises `Refused` behind it where a question about a model could not be answered."""
    client.out.show(answer, partial(_show_findings, client, answer))
    for inspection in answer["inspections"]:
        if inspection["status"] == "failed":
            raise Refused(
                f"{inspection['model']}: {inspection['error']['message']}",
                f"code {inspection['error']['code']}",
            )


def _show_findings(client: Client, answer: Json) -> None:
    _show_check(client, answer)
    for inspection in answer["inspections"]:
        if inspection["result"] is not None:
            client.out.say("")
            client.out.facts(dict(_facts(inspection)))


def _show_check(client: Client, answer: Json) -> None:
    report: Json | None = answer["report"]
    if report is None:
        client.out.say(f"{answer['id']} is not checked yet; ask again.")
        return
    if errors := report["errors"]:
        words = (Column("what is wrong", "wrapped"), Column("what to do", "wrapped"))
        client.out.table(
            ("line", "column", Column("field", "wrapped"), *words),
            (
                [error[name] for name in ("line", "column", "field", "message", "advice")]
                for error in errors
            ),
        )
    facts = {words: report[name] for name, words in FACTS.items() if report.get(name)}
    client.out.facts(facts | dict(readings(report)))


def readings(report: Json) -> Iterator[tuple[str, str]]:
    """Yield how the lines were read, as far as a reader could expect something else."""
    # An older service sends none.
    if len(kinds := report.get("kinds", {})) > 1:
        lines = (
            f"{kind}: {lines['num_lines']:,}, the first is line {lines['first_line']:,}"
            for kind, lines in kinds.items()
        )
        yield "lines of shape", "; ".join(lines)
    if rewrites := report.get("rewrites"):
        yield "rewritten", _record_counts({_words(name): n for name, n in rewrites.items()})
    if ignored := report.get("ignored_fields"):
        others = report["num_other_ignored"]
        rest = f", others {others:,} times" if others else ""
        yield "ignored", _record_counts(ignored) + rest


def _record_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name} in {count:,} {'record' if count == 1 else 'records'}"
        for name, count in counts.items()
    )


def _facts(inspection: Json) -> Iterator[tuple[str, object]]:
    result = inspection["result"]
    yield "model", inspection["model"]
    yield (
        "tokens",
        f"{result['tokens_per_epoch']:,} an epoch, {result['target_tokens_per_epoch']:,} of them "
        "learned",
    )
    yield (
        "longest record",
        f"{result['longest']:,} tokens; half of them have at most {result['median']:,.0f}",
    )
    cut = (
        f"{result['truncated']:,} of {result['records']:,} records lose {result['tokens_cut']:,} "
        "tokens"
    )
    yield "truncated", f"{cut} at max_seq_length {result['max_seq_length']:,}"
    # An older service sends none.
    if split := result.get("split"):
        yield (
            "split",
            f"{split:,} of {result['records']:,} records; {result['sequences']:,} sequences",
        )
    elif result["sequences"] > result["records"]:
        yield "sequences", f"{result['sequences']:,} of {result['records']:,} records"
    yield "nothing to learn in", result["records_without_targets"] or ""
    yield "copies", _duplicate_lines(result["duplicates"]["exact"])
    yield "near copies", _duplicate_lines(result["duplicates"]["near"])
    if leakage := result["leakage"]:
        yield "validation file", inspection["validation_file"]
        yield "also in it", _duplicate_lines(leakage["exact"])
        yield "nearly in it", _duplicate_lines(leakage["near"])
    yield "bad records", result["bad_records"] or ""
    for number, error in enumerate(result["errors"], 1):
        yield f"error {number}", error
    # An older service sends none.
    for number, warning in enumerate(result.get("warnings", ()), 1):
        yield f"warning {number}", warning["message"]

    for record in result["preview"][:PREVIEWS]:
        yield from _previews(record)


def _previews(record: Json) -> Iterator[tuple[str, str]]:
    line = f"line {record['line']}"
    yield line, written_tokens(record["tokens"])
    if record["rejected"]:
        yield f"{line}, not preferred", written_tokens(record["rejected"])
    # An older service sends none.
    for number, turn in enumerate(record.get("later_turns", ()), 2):
        yield f"{line}, sequence {number}", written_tokens(turn)


def written_tokens(tokens: list[Any]) -> str:
    """Write each token apart, and in marks what is learned."""
    runs = groupby(tokens, key=lambda token: token[1])
    return "".join(
        f"«{'·'.join(text for text, _ in run)}»" if learned else "·".join(text for text, _ in run)
        for learned, run in runs
    )


def _duplicate_lines(duplicates: Json) -> str:
    pairs = ", ".join(
        f"line {each['line']} like {each['like_line']}"
        for each in duplicates["examples"][:EXAMPLES]
    )
    more = ", …" if duplicates["records"] > EXAMPLES else ""
    return f"{duplicates['records']:,}" + (f" ({pairs}{more})" if pairs else "")


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")
