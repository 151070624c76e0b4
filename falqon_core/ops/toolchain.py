"""Prove without a GPU that Triton could launch a kernel here: `python -m
falqon_core.ops.toolchain`.

At the first launch Triton compiles its driver module with a C compiler and Python's headers, and
each kernel with its own ptxas. Here both happen: the module is loaded against a stand-in for the
GPU driver's library that has its functions and no GPU. Nothing is launched.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from falqon_core.contract.errors import DeviceUnfit
from falqon_core.ops.compile import SHARED_MEMORY, builds, compile_for

DRIVER_LIBRARY = "libcuda.so.1"


def check_compiler() -> None:
    """Compile a module of Python, as Triton does before its first launch.

    Raises `DeviceUnfit` where that fails, with the packages to install.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise DeviceUnfit(
            "a GPU needs a C compiler, and there is none: Triton compiles its launcher with it; "
            "install one (Debian and Ubuntu: apt-get install gcc libc6-dev python3-dev)",
            "device",
        )
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    headers = sysconfig.get_path("include", scheme)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "module.c"
        source.write_text("#include <Python.h>\n#include <stdlib.h>\n")
        command = [compiler, str(source), "-shared", "-fPIC", f"-I{headers}", "-o", f"{source}.so"]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            text = str(getattr(error, "stderr", None) or error)
            reason = text.strip().partition("\n")[0]
            raise DeviceUnfit(
                f"a GPU needs a C compiler, and {compiler} compiles no module of Python "
                f"({reason}); install its headers (Debian and Ubuntu: apt-get install gcc "
                "libc6-dev python3-dev), and see what CC says",
                "device",
            ) from error


def build_stand_in(folder: Path, driver_source: Path) -> None:
    """Build a library with every function of the GPU driver that Triton's source names."""
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", driver_source.read_text())))
    source = folder / "cuda.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names))
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{DRIVER_LIBRARY}",
        str(source),
        "-o",
        str(folder / DRIVER_LIBRARY),
    ]
    subprocess.run(command, check=True)
    (folder / "libcuda.so").symlink_to(DRIVER_LIBRARY)  # Triton before 3.8 links this name.


def compile_driver_module(folder: Path) -> None:
    """Let Triton compile and load the module that launches its kernels."""
    import ctypes

    from triton.backends.nvidia import driver

    build_stand_in(folder, Path(driver.__file__).parent / "driver.c")
    # Loaded globally, so that the loader finds it by its name.
    ctypes.CDLL(str(folder / DRIVER_LIBRARY), mode=ctypes.RTLD_GLOBAL)
    driver.CudaUtils()


def main() -> None:
    """Compile the driver module and one kernel, and print the result."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ |= {"TRITON_LIBCUDA_PATH": temporary, "TRITON_CACHE_DIR": f"{temporary}/cache"}
        compile_driver_module(Path(temporary))
        compiled = compile_for(next(builds()), min(SHARED_MEMORY))
    sys.stdout.write(
        f"Triton's driver module compiles and loads; {compiled.kernel} compiles for "
        f"{compiled.architecture}.\n"
    )


if __name__ == "__main__":
    main()
