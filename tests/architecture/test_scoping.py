"""Rows that a caller names are read in the caller's project.

A function that acts for a caller has a parameter `caller` or `project_id`. Each id that it is given
beside that goes first to a call that gets the caller, the project or the id of a row that was read
before; what is called later may rely on that. Repositories are left out: they are what is called.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
SCOPES = {"caller", "project_id"}
IDS = ("_id", "_ids")

INSTALLATION = "administrators of the installation change the rows of every project"
READ_BEFORE = "its caller has read the row in the project"
UNSCOPED = {
    ("inference.engines", "change_engine", "model_id"): INSTALLATION,
    ("inference.engines", "unload_engine", "model_id"): INSTALLATION,
    ("inference.service", "poll", "model_id"): READ_BEFORE,
    ("jobs.requeue", "requeue_job", "job_id"): INSTALLATION,
    ("model_imports.service", "add", "model_id"): "ids of models are unique in the installation",
    ("stream.service", "follow_job", "job_id"): READ_BEFORE,
    ("uploads.service", "_complete", "part_ids"): "parts of an upload that was read in the project",
    ("users.service", "delete_grant", "grant_id"): INSTALLATION,
    ("users.service", "readmit_user", "user_id"): INSTALLATION,
    ("users.service", "remove_user", "user_id"): INSTALLATION,
    ("users.service", "retrieve_user", "user_id"): INSTALLATION,
    ("web.pages.job", "_poll", "job_id"): READ_BEFORE,
    ("workers.service", "revoke_token", "token_id"): INSTALLATION,
}


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def arguments_of(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def is_name(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def is_value(call: ast.Call) -> bool:
    """Return whether the call only makes a value, as `Filters(job_ids)` does, or reads the text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    return name[:1].isupper() or name in {"fullmatch", "is_upstream"}


def is_scoped(call: ast.Call) -> bool:
    return any(
        is_name(node, *SCOPES) or (isinstance(node, ast.Attribute) and node.attr in {"id", *SCOPES})
        for node in ast.walk(call)
    )


def first_call_with(function: ast.AST, name: str) -> ast.Call | None:
    calls = [
        (argument.lineno, argument.col_offset, call)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and not is_value(call)
        for argument in arguments_of(call)
        if is_name(argument, name)
    ]
    return min(calls, key=lambda place: place[:2])[2] if calls else None


def unscoped_ids_of(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Return the functions with the ids that they first use outside the project."""
    for function in functions_of(tree):
        parameters = [each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)]
        if SCOPES & set(parameters):
            for name in parameters:
                call = first_call_with(function, name)
                if name not in SCOPES and name.endswith(IDS) and call and not is_scoped(call):
                    yield function.name, name


def test_a_row_that_a_caller_names_is_read_in_the_project_of_the_caller() -> None:
    unscoped = set()
    for path in APP.rglob("*.py"):
        module = ".".join(path.relative_to(APP).with_suffix("").parts)
        if not module.endswith("repository"):
            ids = unscoped_ids_of(ast.parse(path.read_text()))
            unscoped |= {(module, function, name) for function, name in ids}
    assert unscoped == set(UNSCOPED)


@pytest.mark.parametrize(
    ("body", "unscoped"),
    [
        ("job = find(session, caller.project_id, job_id); delete(session, job_id)", False),
        ("job = find(session, caller, job_id)", False),
        ("return events(session, parent.id, job_id)", False),
        ("delete(session, job_id); find(session, caller.project_id, job_id)", True),
        ("return repository.find(session, job_id)", True),
    ],
)
def test_an_id_first_used_outside_the_project_is_reported(body: str, unscoped: bool) -> None:
    tree = ast.parse(f"def act(caller: Caller, job_id: str) -> None: {body}")
    assert list(unscoped_ids_of(tree)) == ([("act", "job_id")] if unscoped else [])
