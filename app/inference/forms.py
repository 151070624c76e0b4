"""Form in which a client gets an answer: the one that it asked for, whole or as a stream."""

import json

from app.base.errors import ApiError
from app.http.error_handlers import body as error_body
from app.inference.recording import ChunkCollector, Recorder
from app.inference.rewriting import Document

END_OF_STREAM = b"data: [DONE]\n\n"


def dump(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def data_event(document: Document) -> bytes:
    return b"data: " + dump(document) + b"\n\n"


class AnswerForm:
    """Form of chat completions, and of completions. `recorder`: where to store the answer."""

    def __init__(self, *, wants_usage: bool = False, recorder: Recorder | None = None) -> None:
        self._wants_usage = wants_usage
        self._recorder = recorder
        self._collector = ChunkCollector()

    def whole(self, document: Document) -> Document:
        """Return a whole answer as its client gets it."""
        if self._recorder is not None:
            document["id"] = self._recorder.public_id
            self._recorder.keep(document)
        return document

    def begin(self) -> bytes:
        """Return what comes before the first event."""
        return b""

    def event(self, chunk: Document) -> bytes:
        if self._recorder is not None:
            chunk = chunk | {"id": self._recorder.public_id}
            self._collector.add(chunk)
        return data_event(chunk)

    def end(self, shared: Document, usage: Document) -> bytes:
        """Return the end of a stream without a failure. `shared`: the fields of all events."""
        if self._recorder is not None:
            shared = shared | {"id": self._recorder.public_id}
            if self._collector.is_whole:
                self._recorder.keep(self._collector.document(usage))
        if not self._wants_usage:
            return END_OF_STREAM
        return data_event(shared | {"choices": [], "usage": usage}) + END_OF_STREAM

    def failure(self, error: ApiError) -> bytes:
        """Return an event that the official client raises."""
        return data_event(error_body(error.message, error.type, error.param, error.code))
