"""The error tree of the trainer.

Every error carries a stable `code` that reaches the user in `job.error.code`, a sentence for the
user (`str(error)`) and, where one input is to blame, the name of that input (`param`). What is
given up: tracebacks never travel; they stay in the log.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar


class FalqonError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[str] = "internal_error"
    default_param: ClassVar[str | None] = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param or self.default_param

    def __str__(self) -> str:
        return self.message


class UserError(FalqonError):
    """Something the user asked for cannot be done; trying again unchanged is useless."""


class ConfigError(UserError):
    code = "invalid_config"


class DeviceMissing(ConfigError):
    """The GPU that was promised is not here, or is another one; no CPU stands in for it."""

    code = "device_missing"


class DeviceUnfit(ConfigError):
    """The GPU lacks something that it needs to train; the message says what to install."""

    code = "device_unfit"


class MethodNotInstalled(ConfigError):
    """A package that the method computes with cannot be imported here."""

    code = "method_not_installed"


class DatasetError(UserError):
    code = "invalid_training_file"
    default_param = "training_file"


class ColumnsUnknown(UserError):
    """A table has no columns that are fields of a record, or not those that a mapping names.

    `columns`: those that it has.
    """

    code = "unknown_columns"
    default_param = "mapping"

    def __init__(self, message: str, columns: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.columns = list(columns)


class SourceUnreadable(UserError):
    """A file is not of the format that it has by its name, or is damaged."""

    code = "source_unreadable"
    default_param = "file"


class SourceTooLarge(UserError):
    code = "source_too_large"
    default_param = "file"


class ModelError(UserError):
    """A base model is missing, unsupported, or refused as unsafe (pickles, remote code)."""

    code = "model_refused"
    default_param = "model"


class LossNotFinite(UserError):
    """Loss or gradient became NaN or infinite, and nothing was applied; or the validation loss."""

    code = "loss_not_finite"


class OutOfMemory(FalqonError):
    code = "out_of_memory"


class DiskFull(FalqonError):
    code = "disk_full"


class CertificateMismatch(FalqonError):
    """The exported files are not the trained model. Nothing is handed out; to try again unchanged
    would most likely end alike.
    """

    code = "certificate_mismatch"


class CheckpointCorrupt(FalqonError):
    code = "checkpoint_corrupt"


class CheckpointOfOtherVersion(FalqonError):
    """A checkpoint is whole, and says what only the version that wrote it understands; a worker of
    that version continues.
    """

    code = "checkpoint_of_other_version"


# Messages of torch's CPU allocator, its callers and CUDA when memory is out; the first raise a
# plain RuntimeError.
_ALLOCATORS_SAY = ("can't allocate memory", "not enough memory", "out of memory")


def is_allocation_failure(error: BaseException) -> bool:
    """Return True if `error` is Python's or torch's way to say that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATORS_SAY)
    )


# Libraries written in Rust (safetensors, the object store) say it in words only; 28 is ENOSPC, 122
# EDQUOT.
_DISKS_SAY = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b")


def is_disk_full(error: BaseException) -> bool:
    """Return True if `error`, or its cause, says that no space is left, or none that we may use."""
    return any(
        getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or _DISKS_SAY.search(str(cause))
        for cause in _causes(error)
    )


def blamed_on_model(what: str, error: Exception) -> Exception:
    """Return the error for a fault of a model's files; lack of memory or space is not theirs."""
    if is_allocation_failure(error) or is_disk_full(error):
        return error
    return ModelError(f"{what}: {str(error) or type(error).__name__}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def as_falqon_error(error: Exception) -> FalqonError:
    """Return the public form of any error: itself when it is ours, out of memory when it means
    that, otherwise only that it happened."""
    if isinstance(error, FalqonError):
        return error
    if is_disk_full(error):
        return DiskFull("the disk is full")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return ConfigError(f"{str(error.filename)[:60]}...: {error.strerror}")
    if is_allocation_failure(error):
        return OutOfMemory(
            "memory ran out while loading; a smaller base model, rank or max_seq_length needs less"
        )
    if isinstance(error, ModuleNotFoundError):
        return FalqonError(
            f"the package {error.name} is not installed here; in the checkout, "
            "`pip install '.[worker]'` installs all that is needed"
        )
    return FalqonError(
        f"unexpected {type(error).__name__}; the log of the trainer holds the details"
    )
