"""Answers of a bounded size."""

from collections.abc import Iterator

import httpx

MAX_BYTES = 2**20


class BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in self._stream:
            num_bytes += len(chunk)
            if num_bytes > MAX_BYTES:
                raise httpx.ReadError(f"the answer is larger than {MAX_BYTES:,} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class BoundedTransport(httpx.HTTPTransport):
    """Ends an answer that is too large with an error."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        # A compressed answer could grow beyond the limit after it.
        request.headers["accept-encoding"] = "identity"
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        if "content-encoding" in response.headers:
            response.close()
            raise httpx.ReadError("the answer is compressed")
        response.stream = BoundedStream(response.stream)
        return response
