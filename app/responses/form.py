"""Responses as their clients get them: whole, or as typed events."""

from typing import Any

from app.base.errors import ApiError
from app.base.ids import new_id
from app.inference.forms import AnswerForm, dump
from app.inference.recording import Recorder
from app.responses import objects
from app.responses.objects import Document
from app.stored_answers.queue import MAX_ANSWER_BYTES


class ResponseForm(AnswerForm):
    """Form of one response; a stream has one open item at a time."""

    def __init__(self, response: Document, recorder: Recorder | None) -> None:
        super().__init__(recorder=recorder)
        self._response = response
        self._output: list[Document] = []
        self._open: OpenItem | None = None
        self._number = 0  # of the next event
        self._is_cut = False

    def whole(self, document: Document) -> Document:
        response = objects.whole(self._response, document)
        self._keep(response)
        return response

    def begin(self) -> bytes:
        return self._event("response.created", response=self._response) + self._event(
            "response.in_progress", response=self._response
        )

    def event(self, chunk: Document) -> bytes:
        return b"".join(map(self._events_of, chunk["choices"]))

    def end(self, shared: Document, usage: Document) -> bytes:
        closed = self._close()
        response = objects.ended(self._response, shared, self._output, usage, is_cut=self._is_cut)
        self._keep(response)
        return closed + self._event(f"response.{response['status']}", response=response)

    def failure(self, error: ApiError) -> bytes:
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _keep(self, response: Document) -> None:
        num_characters = sum(len(str(item)) for item in response["output"])
        if self._recorder is not None and num_characters <= MAX_ANSWER_BYTES:
            self._recorder.keep(response)

    def _events_of(self, choice: Document) -> bytes:
        delta = choice.get("delta") or {}
        self._is_cut |= objects.is_cut(choice)
        events = b""
        if thoughts := delta.get("reasoning_content"):
            events += self._add_text("reasoning", thoughts)
        if text := delta.get("content"):
            events += self._add_text("message", text)
        for call in delta.get("tool_calls") or ():
            events += self._add_call(call)
        return events

    def _add_text(self, kind: str, text: str) -> bytes:
        events = b""
        if self._open is None or self._open.kind != kind:
            events = self._begin(OpenItem(kind))
        assert self._open is not None
        self._open.texts.append(text)
        place = self._place() | {"content_index": 0}
        if kind == "reasoning":
            return events + self._event("response.reasoning_text.delta", **place, delta=text)
        delta = {"delta": text, "logprobs": []}
        return events + self._event("response.output_text.delta", **place, **delta)

    def _add_call(self, part: Document) -> bytes:
        events = b""
        index = part.get("index", 0)
        if self._open is None or self._open.call_index != index:
            events = self._begin(OpenItem("function_call", index, part))
        assert self._open is not None
        arguments = (part.get("function") or {}).get("arguments") or ""
        if arguments:
            self._open.texts.append(arguments)
            place = self._place()
            delta = "response.function_call_arguments.delta"
            events += self._event(delta, **place, delta=arguments)
        return events

    def _begin(self, item: "OpenItem") -> bytes:
        events = self._close()
        self._open = item
        place = {"output_index": len(self._output)}
        events += self._event("response.output_item.added", **place, item=item.document())
        if item.kind == "function_call":
            return events
        return events + self._part("response.content_part.added", "")

    def _close(self) -> bytes:
        """End the open item, if there is one."""
        item = self._open
        if item is None:
            return b""
        text = "".join(item.texts)
        is_last_of_cut = self._is_cut and item.kind != "reasoning"
        document = item.document(text, status="incomplete" if is_last_of_cut else "completed")
        match item.kind:
            case "function_call":
                done = {"arguments": text, "name": document["name"]}
                events = self._event(
                    "response.function_call_arguments.done", **self._place(), **done
                )
            case "reasoning":
                place = self._place() | {"content_index": 0}
                events = self._event("response.reasoning_text.done", **place, text=text)
                events += self._part("response.content_part.done", text)
            case _:
                place = self._place() | {"content_index": 0, "logprobs": []}
                events = self._event("response.output_text.done", **place, text=text)
                events += self._part("response.content_part.done", text)
        place = {"output_index": len(self._output)}
        events += self._event("response.output_item.done", **place, item=document)
        self._output.append(document)
        self._open = None
        return events

    def _part(self, kind: str, text: str) -> bytes:
        assert self._open is not None
        part = objects.text_part(text)
        if self._open.kind == "reasoning":
            part = {"type": "reasoning_text", "text": text}
        return self._event(kind, **self._place(), content_index=0, part=part)

    def _place(self) -> Document:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._output)}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number} | fields
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + dump(event) + b"\n\n"


class OpenItem:
    """Item of a stream that has begun and not ended."""

    PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}

    def __init__(
        self, kind: str, call_index: int | None = None, call: Document | None = None
    ) -> None:
        self.kind = kind
        self.id = new_id(self.PREFIXES[kind])
        self.call_index = call_index
        self.texts: list[str] = []
        self._call = call or {}
        self._call_id = self._call.get("id") or new_id("call_")

    def document(self, text: str | None = None, status: str = "in_progress") -> Document:
        """Return the item; without a text, as it begins."""
        if self.kind == "function_call":
            name = (self._call.get("function") or {}).get("name")
            call = {"id": self._call_id, "function": {"name": name, "arguments": text}}
            return objects.call_item(call, status=status, item_id=self.id)
        make = objects.message_item if self.kind == "message" else objects.reasoning_item
        item = make(text or "", status=status, item_id=self.id)
        return item if text is not None else item | {"content": []}
