from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 400


def test_no_file_outgrows_a_reader() -> None:
    sources = [
        path
        for folder in ("app", "worker", "falqon_core", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 20
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in sources
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert too_long == {}
