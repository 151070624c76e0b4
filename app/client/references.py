"""The ways in which a person may name an object of the service."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.client.errors import Misused, NoSuchObject

if TYPE_CHECKING:
    from app.client.api import Api

LAST = "@last"
MIN_END_LENGTH = 4  # characters of the end of an id, which is random
NUM_SEARCHED = 100  # newest objects
MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Reference:
    """An object by its id, by the end of it, by a name that one of the newest has, or `@last`."""

    path: str
    prefix: str  # of a whole id
    name: str  # field with the name
    noun: str

    def resolve(self, api: "Api", text: str) -> str:
        """Return the id. A text that names nothing stays as it is, for the service to refuse."""
        if text.startswith(self.prefix):
            return text
        newest = api.get(self.path, {"limit": NUM_SEARCHED}, repeatable=True)["data"]
        if text == LAST:
            if not newest:
                raise NoSuchObject(f"There is no {self.noun} yet.")
            return str(newest[0]["id"])
        is_end = len(text) >= MIN_END_LENGTH
        found = [each["id"] for each in newest if is_end and each["id"].endswith(text)]
        found = found or [each["id"] for each in newest if each.get(self.name) == text]
        if len(found) > 1:
            ids = ", ".join(found[:MAX_NAMED]) + (", …" if len(found) > MAX_NAMED else "")
            raise Misused(f"'{text}' names {len(found)} {self.noun}s: {ids}.")
        return found[0] if found else text


JOB = Reference("/fine_tuning/jobs", "ftjob-", "suffix", "job")
FILE = Reference("/files", "file-", "filename", "file")
BATCH = Reference("/batches", "batch_", "input_file_id", "batch")
