from pathlib import Path

import pytest

from falqon_core.files import remove_leftovers, staged_folder, write_whole


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with staged_folder(output) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "a.txt").write_text("a")
        assert not output.exists()
        assert staging.parent == output.parent

    assert (output / "sub" / "a.txt").read_text() == "a"
    assert list(output.parent.iterdir()) == [output]
    assert output.stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")

    def fail() -> None:
        with staged_folder(tmp_path / "out") as staging:
            (staging / "new.txt").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old.txt"]


@pytest.mark.parametrize("leads_to", ["earlier", "nowhere"])
def test_a_folder_takes_the_place_of_a_link(leads_to: str, tmp_path: Path) -> None:
    """And not that of what the link leads to, which may be anything."""
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "old.txt").write_text("old")
    output = tmp_path / "current"
    output.symlink_to(leads_to)
    with staged_folder(output) as staging:
        (staging / "new.txt").write_text("new")

    assert not output.is_symlink()
    assert [path.name for path in output.iterdir()] == ["new.txt"]
    assert (tmp_path / "earlier" / "old.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"current", "earlier"}


def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    output = tmp_path / "model[1]"
    others = {".model[1].json", ".model[1].backup", ".model1.abc.partial"}
    for name in others:
        (tmp_path / name).mkdir()
    writing = staged_folder(output)
    writing.__enter__()
    assert {path.name for path in tmp_path.iterdir()} > others

    remove_leftovers(output)

    assert {path.name for path in tmp_path.iterdir()} == others
    remove_leftovers(tmp_path / "nowhere" / "model")


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_whole(tmp_path / "a.txt", content)

    assert (tmp_path / "a.txt").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1
