from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import StoredJson
from app.models.operation import Operation
from falqon_core.contract.sources import SourceFormat


class FileImport(Operation):
    """Conversion of a table, or of external content, into the JSON lines of a file, which is
    checked then. It stays with the file as the source of its records.
    """

    __tablename__ = "file_imports"
    noun = "file_import"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), index=True)
    source: Mapped[str]  # an address, or the name of the file that was uploaded
    is_uploaded: Mapped[bool]
    format: Mapped[SourceFormat | None]  # null until it is fetched
    mapping: Mapped[dict[str, str]] = mapped_column(StoredJson)
    revision: Mapped[str | None]  # revision that the address resolved to when it was fetched
    sha256: Mapped[str | None]  # hash of the bytes that were read
    bytes: Mapped[int | None] = mapped_column(BigInteger)  # size of those bytes
    progress: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    num_records: Mapped[int] = mapped_column(default=0)  # records so far
    first_records: Mapped[list[str]] = mapped_column(StoredJson, default=list)  # cut, to be shown
    ignored_columns: Mapped[list[str]] = mapped_column(StoredJson, default=list)
