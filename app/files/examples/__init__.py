"""Example data: questions to a shop's support desk, with answers in its tone."""

from importlib.resources import files

from app.auth.caller import Caller
from app.files import service
from app.files.schemas import FileObject
from app.services import Services

NAME = "support_desk.jsonl"


def add_example(services: Services, caller: Caller) -> FileObject:
    """Store the example as a file of the project."""
    content = files(__name__).joinpath(NAME).read_bytes()
    return service.store_file(services, caller, [content], len(content), name=NAME)
