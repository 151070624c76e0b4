from app.storage.hashing import BLOCK_BYTES, Stored
from app.storage.reach import StorageAway
from app.storage.storage import Listed, Storage

__all__ = ["BLOCK_BYTES", "Listed", "Storage", "StorageAway", "Stored"]
