"""Compile every kernel to machine code for every architecture we claim, without a GPU: the gate of
the test run.

`python -m falqon_core.ops.compile TABLE` writes the file TABLE, one line per kernel and
architecture as CSV: kernel, architecture, bytes of cubin and of shared memory, registers of a
thread, bytes of its stack (where spilled registers go), and a hash of all that was compiled,
Triton's version included. Where the hash has not changed TABLE keeps its line: compiling would give
the same. A kernel is refused when its PTX lacks an instruction that its `Build` claims, or when its
shared memory exceeds what a block may have there. Pointers and integers are compiled as multiples
of 16, as torch's allocations and the sizes of real models are: vector loads and pipelining depend
on it. Speed is not judged here, only a GPU can.
"""

import csv
import hashlib
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from falqon_core import ops
from falqon_core.ops.kernels import Build, triton

# Compute capability -> shared memory that one block may have, in bytes (CUDA C++ Programming Guide,
# table of technical specifications).
SHARED_MEMORY = {
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
    103: 227 * 1024,
    110: 227 * 1024,
    120: 99 * 1024,
    121: 99 * 1024,
}

# The first Triton whose ptxas knows an architecture, where that is not the oldest that we take.
MIN_TRITON = {110: (3, 7)}


class Compiled(NamedTuple):
    """One row of the compile matrix."""

    kernel: str
    architecture: str
    cubin_bytes: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    source_hash: str


class KernelRefused(Exception):
    """A kernel whose code breaks a claim of its `Build`."""


def architectures() -> dict[int, int]:
    """Return the entries of `SHARED_MEMORY` that this Triton compiles for."""
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    return {
        capability: limit
        for capability, limit in SHARED_MEMORY.items()
        if version >= MIN_TRITON.get(capability, version)
    }


def builds() -> Iterator[Build]:
    """Yield the `BUILDS` of every module of `ops`."""
    for module in pkgutil.iter_modules(ops.__path__):
        yield from getattr(importlib.import_module(f"{ops.__name__}.{module.name}"), "BUILDS", ())


def registers_and_stack(cubin: bytes) -> tuple[int, int]:
    """Return the registers and the bytes of stack of one thread, from the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert match is not None, usage
    return int(match[1]), int(match[2])


def name_of(build: Build) -> str:
    """Return the kernel's name with its constants, which tells builds of one kernel apart."""
    constants = ", ".join(f"{key}={value}" for key, value in build.constants.items())
    return f"{build.kernel.__name__}({constants})"


def source_of(build: Build) -> Any:
    """Return the source that Triton compiles."""
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(build.signature.values())
        if kind[0] in "*i"
    }
    return triton.compiler.ASTSource(
        fn=build.kernel,
        signature=dict(build.signature),
        constexprs=dict(build.constants),
        attrs=aligned,
    )


def hash_source(build: Build, capability: int) -> str:
    """Return a hash of everything that the result of `compile_for` depends on."""
    options = (build.num_warps, build.num_stages)
    claims = (build.ptx, build.ptx_of.get(capability), SHARED_MEMORY[capability])
    decisive = (triton.__version__, source_of(build).hash(), capability, options, claims)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]


def compile_for(build: Build, capability: int) -> Compiled:
    """Compile a kernel. Raises `KernelRefused` where the code breaks a claim of the build, and
    Triton's error where the kernel does not compile.
    """
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(
        source_of(build),
        target=target,
        options={"num_warps": build.num_warps, "num_stages": build.num_stages},
    )
    name = name_of(build)
    for instruction in (*build.ptx, *build.ptx_of.get(capability, ())):
        if instruction not in compiled.asm["ptx"]:
            raise KernelRefused(f"{name} for sm_{capability}: the PTX holds no {instruction!r}")
    if compiled.metadata.shared > SHARED_MEMORY[capability]:
        raise KernelRefused(
            f"{name} for sm_{capability}: {compiled.metadata.shared} bytes of shared memory are "
            "too many"
        )
    cubin = compiled.asm["cubin"]
    return Compiled(
        name,
        f"sm_{capability}",
        len(cubin),
        compiled.metadata.shared,
        *registers_and_stack(cubin),
        hash_source(build, capability),
    )


def main(table: Path) -> None:
    """Write the matrix to `table`; rows whose hash is unchanged are kept."""
    # Otherwise the machine code would hold the paths of this checkout.
    triton.knobs.compilation.disable_line_info = True
    earlier = [tuple(line) for line in csv.reader(table.read_text().splitlines())]
    by_hash = {line[-1]: line for line in earlier}
    lines: list[tuple[object, ...]] = [Compiled._fields]
    for build in builds():
        for capability in architectures():
            line = by_hash.get(hash_source(build, capability))
            lines.append(line or compile_for(build, capability))
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
