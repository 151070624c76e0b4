from app.storage.storage import Storage, Stored

__all__ = ["Storage", "Stored"]
