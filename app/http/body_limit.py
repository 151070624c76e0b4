from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from app.base.errors import TooLarge, UnsupportedEncoding
from app.base.settings import Settings

MAX_JSON_BYTES = 2**20
MULTIPART_OVERHEAD_BYTES = 2**16


def max_upload_bytes(settings: Settings) -> int:
    """Return the limit of a file and the form around it."""
    return settings.max_file_bytes + MULTIPART_OVERHEAD_BYTES


def limit_body(request: Request, limit: int, param: str | None) -> Receive:
    """Return a reader of the body: no more than `limit` bytes of it, uncompressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding(
            "content-encoding: the body must not be compressed.",
            param="content-encoding",
        )
    error = TooLarge(
        f"The request body is larger than {limit} bytes, the limit for this call.", param=param
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise error
    return _count_bytes(request.receive, limit, error)


def declared_file_bytes(request: Request) -> int:
    """Return the fewest bytes that the file of a form has by the declared length of the body; 0 if
    none is declared.
    """
    return max(0, int(request.headers.get("content-length", "0")) - MULTIPART_OVERHEAD_BYTES)


def _count_bytes(receive: Receive, limit: int, error: TooLarge) -> Receive:
    """Count the bytes of bodies without a declared length."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            # FastAPI lets only this kind pass out of body parsing.
            raise HTTPException(error.status) from error
        return message

    return counted
