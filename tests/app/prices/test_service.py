from decimal import Decimal
from pathlib import Path

import pytest

from app.base.database import Database
from app.base.settings import Settings
from app.prices import service
from app.prices.schemas import Override
from falqon_core.estimate.prices import default_price
from tests.support.api import Api

GOOD = '{"h100": {"usd_per_device_hour": "2.10", "source": "contract", "as_of": "2026-11-01"}}'


def test_an_admins_price_beats_the_file_and_the_file_beats_the_table(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(GOOD)
    with_file = Settings(prices=path)
    without = Settings()
    with database.transaction() as session:
        assert service.price_of(session, without, "h100") == default_price("h100")
        assert service.price_of(session, with_file, "h100").usd_per_device_hour == Decimal("2.10")
        service.replace(
            session, [Override(device="h100", usd_per_device_hour=Decimal("1.50"), source="ours")]
        )
    with database.transaction() as session:
        assert service.price_of(session, with_file, "h100").usd_per_device_hour == Decimal("1.50")
        assert service.price_of(session, with_file, "a100") == default_price("a100")
        rows = [row for row in service.all_prices(session, with_file) if row.price.device == "h100"]
        assert [row.in_force for row in rows] == [True] + [False] * (len(rows) - 1)
        assert [str(row.price.usd_per_device_hour) for row in rows[:3]] == ["1.50", "2.10", "2.69"]
        service.replace(session, [])
    with database.read() as session:
        assert (
            service.price_of(session, with_file, "h100").label == "price file, override, 2026-11-01"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Write a JSON object"),
        (
            '{"h100": {"usd_per_device_hour": 2.1, "source": "x", "as_of": "2026-11-01"}}',
            "h100.usd_per_device_hour: Write dollars in quotes",
        ),
        (
            '{"h100": {"usd_per_device_hour": "0", "source": "x", "as_of": "2026-11-01"}}',
            "h100.usd_per_device_hour: .*greater than 0",
        ),
        (
            '{"h100": {"usd_per_device_hour": "1", "source": "x", "as_of": "yesterday"}}',
            "h100.as_of",
        ),
        (
            '{"h100": {"usd_per_device_hour": "1", "source": "x", '
            '"as_of": "2026-11-01", "eur": 1}}',
            "h100.eur",
        ),
        (GOOD.replace("h100", "abacus"), "unknown device 'abacus'; known devices: a100, b200"),
    ],
)
def test_a_file_that_is_not_right_is_refused_at_the_start(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"FALQON_PRICES: {path}: .*({message})"):
        service.file_prices(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"FALQON_PRICES: .*none.json cannot be read: No such file"
    ):
        service.file_prices(tmp_path / "none.json")


def test_the_service_shows_the_files_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(GOOD)
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, prices=path)
    try:
        with api.database.read() as session:
            assert service.price_of(session, api.settings, "h100").source == "contract"
    finally:
        api.stop()
