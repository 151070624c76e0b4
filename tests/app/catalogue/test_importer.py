import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage, Stored
from app.catalogue.importer import ModelNotAdded, add_base_model, ensure_tiny_model
from app.models import Artifact, Model
from falqon_core.importers.tiny import build_tiny
from tests.support.backend import FAKE_TRAINER
from tests.support.traversal import NAMES

# What an import starts takes seconds; its rows are plain.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
WriteModel = Callable[[str], Path]
BUILTIN = "builtin:falqon-tiny"  # which is built without torch


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", trainer_command=FAKE_TRAINER)


@pytest.fixture
def copying(tmp_path: Path) -> Settings:
    """With an import that takes any folder as it is, so that nothing has to load torch."""
    copy = "import shutil, sys; shutil.copytree(sys.argv[2], sys.argv[4])"
    return Settings(data_dir=tmp_path / "data", trainer_command=[sys.executable, "-c", copy])


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings.resolved_storage_url)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture
def write_model(tmp_path: Path, tiny: Path) -> WriteModel:
    def write(licence: str) -> Path:
        folder = Path(shutil.copytree(tiny, tmp_path / "models" / uuid.uuid4().hex))
        (folder / "LICENSE").write_text(licence)
        return folder

    return write


def rows(database: Database) -> tuple[list[str], list[Artifact]]:
    with database.read() as session:
        return list(session.scalars(select(Model.id))), list(session.scalars(select(Artifact)))


def assert_stored(database: Database, storage: Storage, settings: Settings) -> None:
    """The storage holds what the rows name, and nothing else."""
    _, artifacts = rows(database)
    assert sorted(storage.keys("models")) == sorted(artifact.storage_key for artifact in artifacts)
    for artifact in artifacts:
        assert (
            storage.fetch(artifact.storage_key, settings.data_dir / "copy").sha256
            == artifact.sha256
        )


def test_a_model_is_stored_with_its_hashes(
    database: Database, storage: Storage, settings: Settings
) -> None:
    ensure_tiny_model(database, storage, settings)
    ensure_tiny_model(database, storage, settings)
    models, artifacts = rows(database)
    assert models == ["falqon-tiny"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        artifact.name for artifact in artifacts
    }
    for artifact in artifacts:
        assert storage.fetch(artifact.storage_key, settings.data_dir / "copy") == (
            artifact.bytes,
            artifact.sha256,
            artifact.block_sha256,
        )
    with database.read() as session:
        assert session.get_one(Model, "falqon-tiny").config["model_type"] == "llama"
    assert list((settings.work_dir / "imports").iterdir()) == []


def test_files_of_a_folder_within_are_stored_by_their_path(
    database: Database, storage: Storage, copying: Settings, write_model: WriteModel
) -> None:
    model = write_model("one")
    name = "additional_chat_templates/tool_use.jinja"
    (model / name).parent.mkdir()
    (model / name).write_text("{{ tools }}")
    add_base_model(database, storage, copying, "base", str(model))
    _, artifacts = rows(database)
    assert name in {artifact.name for artifact in artifacts}
    assert_stored(database, storage, copying)


def test_an_import_reports_the_conversions_that_its_program_prints(
    database: Database, storage: Storage, tmp_path: Path, tiny: Path
) -> None:
    code = (
        "import shutil, sys; shutil.copytree(sys.argv[2], sys.argv[4]);"
        "print('Dequantized.\\n\\x1b[2m' + 600 * 'a'); print('More.\\n' * 30)"
    )
    settings = Settings(data_dir=tmp_path / "data", trainer_command=[sys.executable, "-c", code])
    conversions = add_base_model(database, storage, settings, "base", str(tiny))
    assert conversions == ["Dequantized.", "[2m" + 497 * "a", *["More."] * 18]


def test_the_same_model_is_imported_twice_and_a_different_one_is_refused(
    database: Database, storage: Storage, copying: Settings, tiny: Path, write_model: WriteModel
) -> None:
    other = write_model("two")
    assert add_base_model(database, storage, copying, "backend/base", str(tiny)) == []
    before = storage.keys("models")
    assert add_base_model(database, storage, copying, "backend/base", str(tiny)) is None
    with pytest.raises(ModelNotAdded, match="different model 'backend/base' already"):
        add_base_model(database, storage, copying, "backend/base", str(other))
    assert storage.keys("models") == before


def test_an_id_never_leads_elsewhere(
    database: Database, storage: Storage, settings: Settings, tmp_path: Path
) -> None:
    for model_id in (*NAMES, ".hidden", "with space", "ft:x", "a" * 97):
        with pytest.raises(ModelNotAdded, match="is no model id"):
            add_base_model(database, storage, settings, model_id, BUILTIN)
    assert rows(database) == ([], [])
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.startswith("falqon.db")
    ]


def test_two_imports_at_once_leave_one_whole_model(
    database: Database, storage: Storage, copying: Settings, tiny: Path, write_model: WriteModel
) -> None:
    sources = [str(tiny), str(write_model("two")), str(tiny)]

    def add(source: str) -> str:
        try:
            return str(add_base_model(database, storage, copying, "same", source))
        except ModelNotAdded:
            return "refused"

    with ThreadPoolExecutor(3) as pool:
        outcomes = sorted(pool.map(add, sources))
    assert outcomes in (["None", "[]", "refused"], ["[]", "refused", "refused"])
    assert_stored(database, storage, copying)


class Overtaken(Storage):
    """Run `first` between the look whether the model is there and the writing of it."""

    def __init__(self, url: str, first: Callable[[], object]) -> None:
        super().__init__(url)
        self._first: list[Callable[[], object]] = [first]

    def put(self, key: str, chunks: Iterable[bytes]) -> Stored:
        if self._first:
            self._first.pop()()
        return super().put(key, chunks)


@pytest.mark.parametrize("refused", [False, True])
def test_an_overtaken_import_removes_its_own_bytes_only(
    database: Database,
    storage: Storage,
    copying: Settings,
    tiny: Path,
    write_model: WriteModel,
    refused: bool,
) -> None:
    faster = write_model("other") if refused else tiny
    slow = Overtaken(
        copying.resolved_storage_url,
        lambda: add_base_model(database, storage, copying, "base", str(faster)),
    )
    if refused:
        with pytest.raises(ModelNotAdded, match="different model 'base'"):
            add_base_model(database, slow, copying, "base", str(tiny))
    else:
        assert add_base_model(database, slow, copying, "base", str(tiny)) is None
    assert_stored(database, storage, copying)


def test_a_refused_source_leaves_nothing_behind(
    database: Database, storage: Storage, settings: Settings, write_model: WriteModel
) -> None:
    folder = write_model("one")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    with pytest.raises(ModelNotAdded, match=r"config\.json makes it"):
        add_base_model(database, storage, settings, "bad", str(folder))
    assert rows(database) == ([], [])
    assert storage.keys("models") == []
    assert list((settings.work_dir / "imports").iterdir()) == []


def test_an_import_that_the_kernel_kills_reports_the_signal(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    ended = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"]
    settings = Settings(data_dir=tmp_path / "data", trainer_command=ended)
    with pytest.raises(
        ModelNotAdded,
        match=r"ended by SIGXCPU; docs/base-models\.md lists its limits of time and memory",
    ):
        add_base_model(database, storage, settings, "bad", "anything")
