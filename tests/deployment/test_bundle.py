"""The bundle of `make bundle`, with a package of a few lines in the place of ours; `make
bundle-check` installs the real one in a namespace without a network.
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.backend import ROOT

BUNDLE = ROOT / "deploy" / "bundle"
STAND_IN = {
    "app.py": "print('served')\n",
    "torch/__init__.py": "from torch import version\n__version__ = '1+cpu'\n",
    "torch/version.py": "cuda = None\n",
    "falqon-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: falqon\nVersion: 9.9\n",
    "falqon-9.9.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "falqon-9.9.dist-info/RECORD": "",
}


def write_wheel(folder: Path, more_metadata: str = "") -> None:
    with zipfile.ZipFile(folder / "falqon-9.9-py3-none-any.whl", "w") as wheel:
        for name, text in STAND_IN.items():
            wheel.writestr(name, text + more_metadata * name.endswith("METADATA"))


def assemble(folder: Path, more_metadata: str = "") -> Path:
    """Return the folder of a bundle, as it comes out of its archive."""
    (folder / "wheels").mkdir()
    write_wheel(folder / "wheels", more_metadata)
    (folder / "small.gguf").write_text("weights")
    command = [BUNDLE / "assemble.sh", "wheels", "small.gguf", "output"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment())
    (archive,) = (folder / "output").glob("*.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "copied", filter="data")
    return folder / "copied" / archive.stem


def environment(python: str = sys.executable) -> dict[str, str]:
    return os.environ | {"PYTHON": python}


def install(
    bundle: Path, target: Path, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bundle / "install.sh", target],
        env=environment(python),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return assemble(tmp_path)


def test_a_bundle_holds_all_that_its_readme_uses_and_the_sum_of_each_file(bundle: Path) -> None:
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE",
        "PLATFORM",
        "README.md",
        "SHA256SUMS",
        "demo/support_desk.jsonl",
        "install.sh",
        "model/small.gguf",
        "wheels/falqon-9.9-py3-none-any.whl",
    }
    sums = (bundle / "SHA256SUMS").read_text()
    assert set(re.findall(r"^[0-9a-f]{64}  (.+)$", sums, re.M)) == files - {"SHA256SUMS"}


def test_it_installs_from_its_own_files_alone(bundle: Path, tmp_path: Path) -> None:
    """Also where an earlier bundle under the same name left a newer wheel."""
    newer = "falqon-10-py3-none-any.whl"
    (bundle / "wheels" / newer).write_text("no wheel")
    done = install(bundle, tmp_path / "installed")
    assert done.returncode == 0, done.stderr
    assert "torch 1+cpu for CPUs" in done.stdout
    served = subprocess.check_output(
        [tmp_path / "installed" / "bin" / "python", "-m", "app"], cwd=tmp_path, text=True
    )
    assert served == "served\n"
    again = install(bundle, tmp_path / "installed")
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_file_that_did_not_arrive_whole_is_named_and_nothing_is_installed(
    fault: str, bundle: Path, tmp_path: Path
) -> None:
    model = bundle / "model" / "small.gguf"
    model.unlink()
    if fault == "damaged":
        model.write_text("weighte")
    done = install(bundle, tmp_path / "installed")
    assert done.returncode == 1
    assert "model/small.gguf: FAILED" in done.stdout
    assert "copy the bundle again" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_another_python_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho linux-riscv64 python3.9\n")
    other.chmod(0o755)
    done = install(bundle, tmp_path / "installed", str(other))
    assert done.returncode == 1
    assert f"is for {(bundle / 'PLATFORM').read_text().strip()}, and {other} is linux-riscv64" in (
        done.stderr
    )


def test_an_installation_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    incomplete = assemble(tmp_path, "Requires-Dist: absent-from-the-bundle\n")
    done = install(incomplete, tmp_path / "installed")
    assert done.returncode != 0
    assert "absent-from-the-bundle" in done.stderr
    assert not (tmp_path / "installed").exists()
