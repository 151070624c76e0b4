from app.models.operation import Operation
from worker.operations.registry import HANDLERS


def test_every_kind_of_operation_has_its_handler() -> None:
    assert HANDLERS.keys() == set(Operation.__subclasses__())
    assert all(handler.kind is kind for kind, handler in HANDLERS.items())
