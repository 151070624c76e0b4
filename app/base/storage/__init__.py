from app.base.storage.hashing import BLOCK_BYTES, Stored
from app.base.storage.reach import StorageAway
from app.base.storage.storage import Listed, Storage

__all__ = ["BLOCK_BYTES", "Listed", "Storage", "StorageAway", "Stored"]
