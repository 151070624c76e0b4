"""`falqon evaluate`: whether a job's model answers held-out rows better than its base."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, EvaluationFileId, JobId, option
from app.client.errors import Misused
from app.client.polling import wait_until_done

EVALUATION_POLL_SECONDS = 1.0
SAME_GRADER = {"type": "string_check", "name": "same", "operation": "eq"}
HOLDS_GRADER = {"type": "string_check", "name": "holds", "operation": "like"}
SIMILARITIES = ("fuzzy_match", "rouge_1", "rouge_2", "rouge_l")
GRADERS: dict[str, Json] = {"same": SAME_GRADER, "holds": HOLDS_GRADER} | {
    name: {"type": "text_similarity", "name": name, "evaluation_metric": name}
    for name in SIMILARITIES
}
VERDICTS = {
    "better": "better than base",
    "worse": "WORSE THAN BASE",
    "no_clear_difference": "no clear difference",
}


def evaluate(
    client: Client,
    job_id: JobId,
    grader: Annotated[
        list[str],
        typer.Option(
            help=f"{', '.join(GRADERS)}, or a JSON file with a grader or a list of them; may be "
            "repeated."
        ),
    ] = ["same", "fuzzy_match"],  # noqa: B006
    file: EvaluationFileId = None,
    checkpoint: Annotated[
        list[int], option(help="Also evaluate the checkpoint of this step; may be repeated.")
    ] = [],  # noqa: B006
    rows: Annotated[int, typer.Option(help="Maximum number of rows.")] = 200,
    max_tokens: Annotated[int, typer.Option(help="Maximum tokens per answer.")] = 256,
    answers: Annotated[
        bool, typer.Option("--answers", help="Also show the best and the worst answers.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is done; exit 1 if that fails.")] = True,
) -> None:
    """Compare a fine-tuned model with its base on held-out data."""
    body: Json = {
        "graders": [each for name in grader for each in _graders(name)],
        "checkpoints": checkpoint,
        "max_rows": rows,
        "max_tokens": max_tokens,
    }
    if file is not None:
        body["file"] = file
    path = f"/fine_tuning/jobs/{segment(job_id)}/evaluations"
    evaluation = client.api.post(path, body)
    if wait:
        client.out.note(f"{evaluation['id']}: {len(evaluation['models'])} models are asked …")
        evaluation = _wait(client, path, evaluation)
    if evaluation["result"] is None:
        words = f"{evaluation['id']} is in progress; the job's page shows its result."
        client.out.show(evaluation, words)
    else:
        client.out.show(evaluation, partial(_show, client, evaluation, answers))


def _wait(client: Client, path: str, evaluation: Json) -> Json:
    """Return the evaluation once it has ended; a terminal shows a bar until then."""
    columns = (TextColumn("Answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = client.out.as_json or not client.out.console.is_terminal
    with Progress(*columns, console=client.out.console, transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=None)

        def show(evaluation: Json) -> None:
            total, completed = evaluation["num_questions"], evaluation["num_answers"]
            progress.update(bar, total=total, completed=completed)

        return wait_until_done(
            client,
            f"{path}/{evaluation['id']}",
            evaluation,
            EVALUATION_POLL_SECONDS,
            how_to_go_on="The evaluation goes on; the job's page shows its result.",
            show=show,
        )


def _graders(name: str) -> list[Json]:
    if name in GRADERS:
        return [GRADERS[name]]
    try:
        content: Any = json.loads(Path(name).read_bytes())
    except (OSError, ValueError) as error:
        raise Misused(
            f"--grader: '{name}' is none of {', '.join(GRADERS)}, and no file of JSON: {error}"
        ) from None
    return content if isinstance(content, list) else [content]


def _show(client: Client, evaluation: Json, with_answers: bool) -> None:
    result = evaluation["result"]
    columns = (
        Column("model", "wrapped"),
        Column("grader", "wrapped"),
        "mean",
        "above base",
        "p",
        Column("", "wrapped"),
    )
    client.out.say(evaluation["summary"])
    client.out.table(columns, _table(result))
    left_out = f", {result['rows_left_out']} left out" if result["rows_left_out"] else ""
    client.out.say(f"{result['rows']} rows{left_out}; ± is the standard error.", "dim")
    if with_answers:
        graders = [grader["name"] for grader in evaluation["graders"]]
        _show_answers(client, "Best answers", result["best"], graders)
        _show_answers(client, "Worst answers", result["worst"], graders)


def _show_answers(client: Client, title: str, examples: list[Json], graders: list[str]) -> None:
    for number, example in enumerate(examples, 1):
        scores = zip(graders, example["scores"], strict=True)
        client.out.say("")
        client.out.say(
            f"{title}, {number}: line {example['line']}, "
            + ", ".join(f"{grader} {score:.2f}" for grader, score in scores),
            "dim",
        )
        client.out.facts(
            {
                "prompt": example["prompt"],
                "answer": example["answer"] or "(nothing)",
                "base": _base_answer(example),
                "expected": example["expected"] or "(nothing)",
            }
        )


def _base_answer(example: Json) -> str:
    """Return what the base says; nothing where an older service does not tell."""
    answer = example.get("base_answer")
    return "" if answer is None else str(answer) or "(nothing)"


def _table(result: Json) -> Iterator[tuple[str, ...]]:
    for model in result["models"]:
        name = model["model"] if model["role"] != "base" else f"{model['model']} (base)"
        for score in model["scores"]:
            mean = _with_error(score["mean"], score["standard_error"])
            if (difference := score["difference"]) is None:
                yield name, score["grader"], mean, "", "", ""
                continue
            above = _with_error(difference["mean"], difference["standard_error"], "+")
            p_value = f"{difference['p_value']:.3f}"
            yield name, score["grader"], mean, above, p_value, VERDICTS[difference["verdict"]]


def _with_error(value: float, error: float | None, sign: str = "") -> str:
    text = f"{value:{sign}.3f}"
    return text if error is None else f"{text} ± {error:.3f}"
