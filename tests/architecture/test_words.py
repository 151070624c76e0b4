"""Identifiers that were given up for the field's own words must not come back."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIVEN_UP = {
    "App": "ServicesDep",
    "Asked": "RequestedRecipe",
    "Bell": "Notifier",
    "Certifier": "VerifierProcess",
    "CodeRows": "Fp8Weight",
    "CpuWorker": "FileCheckHandler",
    "Draft": "NewEvent",
    "Extras": "FalqonOptions",
    "Fulfiller": "OperationHandler",
    "GivenUp": "OperationAbandoned",
    "House": "Backend",
    "Impossible": "PermanentError",
    "Inspector": "DatasetStatisticsHandler",
    "Journal": "AttemptWriter",
    "Looker": "PollLoop",
    "Rows": "PackedWeight",
    "ShadowRows": "EmulatedWeight",
    "Toy": "FakeTrainer",
    "Wish": "Operation",
    "Witness": "ReferenceOutputs",
    "World": "ProcessGroup",
    "abandon": "mark_orphaned",
    "add_up": "all_reduce_sum",
    "bell": "notifier",
    "deaf": "ignores_sigterm",
    "doomed": "deleting",
    "expect_the_end": "prestart_verifier",
    "first_alone": "rank0_first",
    "ghost": "zombie",
    "hurry": "run_fast",
    "insist": "write_with_retry",
    "join_world": "join_process_group",
    "leash": "parent_death",
    "let_go": "release_model",
    "misfit": "incompatibility",
    "overridden": "merge_overrides",
    "rung_at": "notified_at",
    "show_one": "to_object",
    "side_by_side": "cat_or_view",
    "sow": "create_seeds",
    "tries": "attempts",
    "wish": "operation",
    "witness": "reference_outputs",
}

# Each of these has meant many things; a name says which.
VAGUE = {"asked", "found", "held", "known", "made", "one", "said", "shown", "told", "wanted"}
FOLDERS = ("app", "worker", "falqon_core", "benchmarks", "tests")


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def identifiers_of(tree: ast.AST) -> set[str]:
    """Return every name that the code binds or reads."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name)
                | ast.Attribute(attr=name)
                | ast.arg(arg=name)
                | ast.alias(name=name)
            ):
                names.add(name)
            case (
                ast.ClassDef(name=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
            ):
                names.add(name)
    return names


def bound_names_of(tree: ast.AST) -> set[str]:
    """Return every variable, parameter, function and class that the code makes."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
    return {name.strip("_").lower() for name in names}


def test_given_up_words_stay_away() -> None:
    back = [
        f"{path.relative_to(ROOT)}: {name} is {GIVEN_UP[name]} now"
        for path in sources()
        for name in sorted(identifiers_of(ast.parse(path.read_text())) & GIVEN_UP.keys())
    ]
    assert back == []


def test_names_are_nouns() -> None:
    vague = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in sorted(bound_names_of(ast.parse(path.read_text())) & VAGUE)
    ]
    assert vague == []
