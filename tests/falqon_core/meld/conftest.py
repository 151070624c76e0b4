import pytest

from falqon_core.meld import linear
from tests.falqon_core.meld.models import fp8_weight


@pytest.fixture
def on_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Melded weights lie on FP8 codes, as on a GPU."""
    monkeypatch.setattr(linear, "new_packed_weight", fp8_weight)
