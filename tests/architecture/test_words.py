"""Identifiers that were given up for the field's own words must not come back."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIVEN_UP = {
    "Asked": "RequestedRecipe",
    "Bell": "Notifier",
    "Certifier": "VerifierProcess",
    "CodeRows": "Fp8Weight",
    "Draft": "NewEvent",
    "Fulfiller": "OperationRunner",
    "GivenUp": "OperationAbandoned",
    "Impossible": "PermanentError",
    "Journal": "AttemptWriter",
    "Looker": "PollLoop",
    "Rows": "PackedWeight",
    "ShadowRows": "EmulatedWeight",
    "Wish": "Operation",
    "Witness": "ReferenceOutputs",
    "World": "ProcessGroup",
    "add_up": "all_reduce_sum",
    "first_alone": "rank0_first",
    "insist": "write_with_retry",
    "join_world": "join_process_group",
    "misfit": "incompatibility",
    "witness": "reference_outputs",
}


def identifiers_of(tree: ast.AST) -> set[str]:
    """Return every name that the code binds or reads."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                found.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
    return found


def test_given_up_words_stay_away() -> None:
    back = []
    for folder in ("app", "worker", "falqon_core", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            names = identifiers_of(ast.parse(path.read_text())) & GIVEN_UP.keys()
            back += [f"{path.relative_to(ROOT)}: {name} is {GIVEN_UP[name]} now" for name in sorted(names)]
    assert back == []
