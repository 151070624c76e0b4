from app.base.storage.hashing import BLOCK_BYTES, Stored
from app.base.storage.reach import StorageUnavailable
from app.base.storage.storage import ListedObject, Storage

__all__ = ["BLOCK_BYTES", "ListedObject", "Storage", "StorageUnavailable", "Stored"]
