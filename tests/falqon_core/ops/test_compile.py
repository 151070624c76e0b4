"""The compile gate, in processes of its own: kernels do not compile where the interpreter is on."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import triton

from falqon_core.ops.compile import architectures, builds, name_of

MATRIX = Path("benchmarks/results/compile_matrix.csv")
VERSION_OF_MATRIX = "3.7.1"  # of Triton, see compile_matrix.md
EXPECTED = [
    (name_of(build), f"sm_{capability}") for build in builds() for capability in architectures()
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def read(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def test_every_kernel_compiles_for_every_architecture_we_claim(tmp_path: Path) -> None:
    """What has not changed since the table was written is not compiled again, but for one kernel
    on each architecture, which gives the line that was taken out.
    """
    table = tmp_path / "table.csv"
    lines = MATRIX.read_text().splitlines(keepends=True)
    header, *rows = lines
    num_architectures = len({architecture for _, architecture in EXPECTED})
    sample = {rows[5 * index] for index in range(num_architectures)}
    assert len({row.rsplit(",", 6)[1] for row in sample}) == num_architectures
    table.write_text("".join([header, *(row for row in rows if row not in sample)]))
    done = python("-m", "falqon_core.ops.compile", str(table))
    assert done.returncode == 0, done.stderr
    compiled = read(table)
    assert [(line["kernel"], line["architecture"]) for line in compiled] == EXPECTED
    assert all(int(line["cubin_bytes"]) > 0 and int(line["registers"]) > 0 for line in compiled)
    if triton.__version__ == VERSION_OF_MATRIX:
        assert table.read_text() == MATRIX.read_text(), (
            f"write it anew: python -m falqon_core.ops.compile {MATRIX}"
        )


REFUSALS = """
from dataclasses import replace
from falqon_core.ops.compile import KernelRefused, compile_for
from falqon_core.ops.half_gemm import BUILDS
# Eight stages of a GEMM's tiles take 112 KiB; sm_89 has 99.
for change in (
    {"ptx": ("wgmma",)},
    {"ptx_of": {89: ("tcgen05",)}},
    {"num_stages": 8},
    {"ptx_of": {90: ("tcgen05",)}},
):
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
