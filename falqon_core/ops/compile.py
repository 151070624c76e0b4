"""Compile every kernel to machine code for every architecture we claim, without a GPU: the gate of the test run.

`python -m falqon_core.ops.compile` prints one line per kernel and architecture as CSV: kernel, architecture, bytes of cubin and of
shared memory. A kernel is refused when its PTX lacks an instruction that its `Build` claims, or when its shared
memory exceeds what a block may have there. What is given up: speed is not judged here, only a GPU can.
"""

import csv
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

from falqon_core import ops
from falqon_core.ops.kernels import Build, triton

# Compute capability -> shared memory that one block may have, in bytes (CUDA C++ Programming Guide, table of technical specifications).
SHARED_MEMORY = {89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}


class Compiled(NamedTuple):
    kernel: str
    architecture: str
    cubin_bytes: int
    shared_bytes: int


class KernelRefused(Exception):
    """A kernel compiles to something else than its `Build` claims."""


def builds() -> Iterator[Build]:
    """The `BUILDS` of every module of `ops`."""
    for module in pkgutil.iter_modules(ops.__path__):
        yield from getattr(importlib.import_module(f"{ops.__name__}.{module.name}"), "BUILDS", ())


def compile_for(build: Build, capability: int) -> Compiled:
    """Raises `KernelRefused`, and whatever Triton raises for a kernel that does not compile."""
    source = triton.compiler.ASTSource(fn=build.kernel, signature=dict(build.signature), constexprs=dict(build.constants))
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": build.num_warps, "num_stages": build.num_stages})
    name = f"{build.kernel.__name__}({', '.join(f'{key}={value}' for key, value in build.constants.items())})"
    for instruction in (*build.ptx, *build.ptx_of.get(capability, ())):
        if instruction not in compiled.asm["ptx"]:
            raise KernelRefused(f"{name} for sm_{capability}: the PTX holds no {instruction!r}")
    if compiled.metadata.shared > SHARED_MEMORY[capability]:
        raise KernelRefused(f"{name} for sm_{capability}: {compiled.metadata.shared} bytes of shared memory are too many")
    return Compiled(name, f"sm_{capability}", len(compiled.asm["cubin"]), compiled.metadata.shared)


def main() -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(Compiled._fields)
    for build in builds():
        for capability in SHARED_MEMORY:
            writer.writerow(compile_for(build, capability))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
