"""The ways in which a person may name an object of the service."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.client.errors import Misused, NoSuchObject

if TYPE_CHECKING:
    from app.client.api import Api

LAST = "@last"
RANDOM_END = re.compile(r"[0-9a-f]{4,8}")
MIN_END_LENGTH = 4  # characters of the end of an id, which is random
SHORT_LENGTH = 8  # characters of the end that tables show
PAGE_SIZE = 100
MAX_PAGES = 10  # of newest objects that are searched
MAX_NAMED = 5
TRAINING_PURPOSE = "fine-tune"

Json = dict[str, Any]


def shorten(id_: str) -> str:
    """Return the end by which commands know an object; the id of a base model is its name."""
    has_random_end = id_.startswith(("ft:", "ftjob-", "file-"))
    return id_[-SHORT_LENGTH:] if has_random_end else id_


@dataclass(frozen=True, slots=True)
class Reference:
    """An object by its id, by the end of it, by a name that one of the newest has, or `@last`."""

    path: str
    prefix: str  # of a whole id
    name: str  # field with the name
    noun: str

    def is_whole(self, text: str) -> bool:
        return text.startswith(self.prefix)

    def name_of(self, found: Json) -> str | None:
        return found.get(self.name)

    def pages(self, api: "Api") -> Iterator[list[Json]]:
        """Yield pages of the newest, the newest first."""
        after = None
        for _ in range(MAX_PAGES):
            query = {"limit": PAGE_SIZE, "after": after}
            page = api.get(self.path, query, repeatable=True)
            yield page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def find_last(self, api: "Api") -> Json | None:
        newest = next(self.pages(api), [])
        return next(iter(newest), None)

    def resolve(self, api: "Api", text: str) -> str:
        """Return the id. A text that names nothing stays as it is, for the service to refuse."""
        if self.is_whole(text):
            return text
        if text == LAST:
            last = self.find_last(api)
            if last is None:
                raise NoSuchObject(f"There is no {self.noun} yet.")
            return str(last["id"])
        for newest in self.pages(api):
            if found := self._find(newest, text):
                return found
        return text

    def _find(self, newest: list[Json], text: str) -> str | None:
        """Return the id of the only one that the text names."""
        is_end = len(text) >= MIN_END_LENGTH
        found = [each["id"] for each in newest if each["id"] == text]
        found = found or [each["id"] for each in newest if is_end and each["id"].endswith(text)]
        found = found or [each["id"] for each in newest if self.name_of(each) == text]
        if len(found) > 1:
            ids = ", ".join(found[:MAX_NAMED]) + (", …" if len(found) > MAX_NAMED else "")
            raise Misused(f"'{text}' names {len(found)} {self.noun}s: {ids}.")
        return str(found[0]) if found else None


class FileReference(Reference):
    """A file: any by its id or the end of it, and one to train with by its name or as `@last`: the
    newest file is often what a job wrote.
    """

    __slots__ = ()

    def name_of(self, found: Json) -> str | None:
        return super().name_of(found) if found["purpose"] == TRAINING_PURPOSE else None

    def find_last(self, api: "Api") -> Json | None:
        query = {"limit": 1, "purpose": TRAINING_PURPOSE}
        newest = api.get(self.path, query, repeatable=True)["data"]
        return next(iter(newest), None)


class ModelReference(Reference):
    """A model: a base by its whole id, a fine-tuned one by the end of its id, too, or `@last`."""

    __slots__ = ()

    def is_whole(self, text: str) -> bool:
        return text != LAST and not RANDOM_END.fullmatch(text)

    def name_of(self, found: Json) -> str | None:
        return None

    def pages(self, api: "Api") -> Iterator[list[Json]]:
        models = api.get(self.path, repeatable=True)["data"]
        newest = sorted(models, key=lambda model: -model["created"])
        yield sorted(newest, key=lambda model: not model.get("fine_tuning_job"))


JOB = Reference("/fine_tuning/jobs", "ftjob-", "suffix", "job")
FILE = FileReference("/files", "file-", "filename", "file")
BATCH = Reference("/batches", "batch_", "input_file_id", "batch")
MODEL = ModelReference("/models", "ft:", "id", "model")
