import subprocess
from pathlib import Path

from falqon_core.export.checksums import write_sha256sums


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_sha256sum_verifies_every_file(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("first")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.bin").write_bytes(bytes(range(256)))
    (tmp_path / ".hidden").write_text("not for download")

    write_sha256sums(tmp_path)
    write_sha256sums(tmp_path)

    assert check(tmp_path).stdout == "a b.txt: OK\nsub/c.bin: OK\n"
