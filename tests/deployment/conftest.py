import pytest

from tests.deployment.exported import read_labels


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric of ours with its labels."""
    return read_labels(tmp_path_factory.mktemp("exported"))
