from pathlib import Path

ROOT = Path(__file__).parents[2]
HARD_LIMIT_LINES = 600


def test_no_file_outgrows_a_reader() -> None:
    sources = [path for folder in ("app", "worker", "falqon_core") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 20
    too_long = {str(path.relative_to(ROOT)): lines for path in sources if (lines := len(path.read_text().splitlines())) > HARD_LIMIT_LINES}
    assert too_long == {}
