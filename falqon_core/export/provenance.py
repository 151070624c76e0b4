"""The origin of a model, taken over from the folder that it was made from: the base model's name on
the Hub, and its licence.

A folder from the Hub names itself in its config.json (`importers.importer`); one of our exports
names its base in its card.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from falqon_core.contract.model_folder import read_config
from falqon_core.importers.folder import ORIGIN_KEY

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
CARD_TAG = "falqon"  # The tag of our cards.
LICENCE_FIELDS = ("license", "license_name", "license_link")
LICENCE_FILE = re.compile(r"(LICENSE|NOTICE)[A-Za-z0-9_-]*(\.(txt|md))?")
FRONT_MATTER = re.compile(r"---\r?\n(.*?)\r?\n---(\s|$)", re.DOTALL)
MAX_FIELD = 500
MAX_FILE_BYTES = 2**20

CardFields = dict[str, Any]


def card_fields(source: Path, name: str) -> CardFields:
    """Return the front matter of a card: `base_model`, unless the Hub would not take it, and the
    licence that `source` declares.

    `name`: by which the base goes here. Raises `ModelError` for a broken config.json.
    """
    declared = _front_matter(source / "README.md")
    ours = CARD_TAG in declared["tags"] if isinstance(declared.get("tags"), list) else False
    base = _origin(source / "config.json") or (declared.get("base_model") if ours else None) or name
    fields = {field: declared[field] for field in LICENCE_FIELDS if _is_plain(declared.get(field))}
    return (
        {"base_model": base} if isinstance(base, str) and HUB_ID.fullmatch(base) else {}
    ) | fields


def copy_licence(source: Path, folder: Path) -> None:
    """Copy its text, where `source` has it as files of at most 1 MiB."""
    for path in source.iterdir():
        if (
            LICENCE_FILE.fullmatch(path.name)
            and path.is_file()
            and path.stat().st_size <= MAX_FILE_BYTES
        ):
            shutil.copyfile(path, folder / path.name)


def _front_matter(readme: Path) -> dict[str, Any]:
    """Read the front matter of a card, which may hold anything."""
    if not readme.is_file():
        return {}
    match = FRONT_MATTER.match(readme.read_text(encoding="utf-8-sig", errors="replace"))
    try:
        declared = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return declared if isinstance(declared, dict) else {}


def _origin(config: Path) -> Any:
    return read_config(config.parent).get(ORIGIN_KEY) if config.is_file() else None


def _is_plain(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(
        isinstance(text, str) and 0 < len(text) <= MAX_FIELD for text in values
    )
