from app.database import Database
from app.storage import Storage


def check(database: Database, storage: Storage, file_id: str) -> list[str]:
    raise NotImplementedError
