"""The compile gate, in processes of its own: where the interpreter is on, kernels do not compile."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from falqon_core.ops.compile import SHARED_MEMORY, builds, name_of

MATRIX = Path("benchmarks/results/compile_matrix.csv")
EXPECTED = [(name_of(build), f"sm_{capability}") for build in builds() for capability in SHARED_MEMORY]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_every_kernel_compiles_for_every_architecture_we_claim() -> None:
    done = python("-m", "falqon_core.ops.compile")
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(done.stdout.splitlines()))
    assert [(line["kernel"], line["architecture"]) for line in lines] == EXPECTED
    assert all(int(line["cubin_bytes"]) > 0 and int(line["registers"]) > 0 for line in lines)


def test_the_table_of_the_benchmarks_lists_the_kernels_that_there_are() -> None:
    lines = list(csv.DictReader(MATRIX.read_text().splitlines()))
    found = [(line["kernel"], line["architecture"]) for line in lines]
    assert found == EXPECTED, f"write it anew: python -m falqon_core.ops.compile > {MATRIX}"


REFUSALS = """
from dataclasses import replace
from falqon_core.ops.compile import KernelRefused, compile_for
from falqon_core.ops.half_gemm import BUILDS
# Eight stages of a GEMM's tiles take 112 KiB; sm_89 has 99.
for change in ({"ptx": ("wgmma",)}, {"ptx_of": {89: ("tcgen05",)}}, {"num_stages": 8}, {"ptx_of": {90: ("tcgen05",)}}):
    try:
        print(compile_for(replace(BUILDS[0], **change), 89).architecture)
    except KernelRefused as refusal:
        print(refusal)
"""


def test_a_kernel_that_is_not_what_it_claims_is_refused() -> None:
    done = python("-c", REFUSALS)
    assert done.returncode == 0, done.stderr
    anywhere, on_one, too_large, elsewhere = done.stdout.splitlines()
    assert anywhere.endswith("for sm_89: the PTX holds no 'wgmma'")
    assert on_one.endswith("for sm_89: the PTX holds no 'tcgen05'")
    assert too_large.endswith("bytes of shared memory are too many")
    assert elsewhere == "sm_89"  # a claim for another architecture
