"""Training files made of stored answers."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from app.auth.caller import Caller
from app.base.errors import InvalidRequest, NotFound
from app.base.storage.storage import CHUNK_BYTES
from app.files import service as files
from app.files.schemas import FileObject
from app.models import StoredAnswer
from app.models.answer_file import AnswerFileOrigin, AnswerFileRequest, AnswerFilter
from app.services import Services
from app.stored_answers import repository
from app.stored_answers.records import Json, given_message, preference_line, supervised_line
from falqon_core.records.jsonl import BadRecord
from falqon_core.records.line_parser import parse_record
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
    TextRecord,
)

READ_AT_ONCE = 200
MAX_ANSWERS = 200_000
IN_MEMORY_BYTES = 8 * 2**20
MAX_HELD_OUT_BYTES = 256 * 2**20
FILENAMES = {"supervised": "stored-answers.jsonl", "preference": "stored-answer-pairs.jsonl"}


def make_file(services: Services, caller: Caller, request: AnswerFileRequest) -> FileObject:
    """Make a file of the answers that match; the check judges it as any other."""
    lines = _Lines(request, _held_out(services, caller, request))
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as content:
        for line in lines.read(services, caller):
            content.write(line + b"\n")
            if content.tell() > services.settings.max_file_bytes:
                raise InvalidRequest(
                    f"filter: the file would have more than {services.settings.max_file_bytes} "
                    "bytes; choose fewer answers, such as those of a week.",
                    param="filter",
                    code="too_many_answers",
                )
        num_bytes = content.tell()
        if not num_bytes:
            raise InvalidRequest(
                f"filter: {lines.num_answers} answers match, and none of them makes a line: "
                f"{lines.num_repeated} are repeated, {lines.num_held_out} held out and "
                f"{lines.num_unusable} cut, empty or without a correction.",
                param="filter",
                code="no_answers",
            )
        content.seek(0)
        return files.store_file(
            services,
            caller,
            iter(partial(content.read, CHUNK_BYTES), b""),
            num_bytes,
            name=FILENAMES[request.shape],
            made_of=lines.origin,
        )


@dataclass(slots=True)
class _Lines:
    """Lines of one file, and the numbers of the answers that are none."""

    request: AnswerFileRequest
    held_out: set[bytes]
    num_answers: int = 0
    num_repeated: int = 0
    num_held_out: int = 0
    num_unusable: int = 0
    _corrected: set[bytes] = field(default_factory=set)  # questions with a corrected answer
    _written: set[bytes] = field(default_factory=set)

    @property
    def origin(self) -> AnswerFileOrigin:
        return AnswerFileOrigin(
            request=self.request,
            num_answers=self.num_answers,
            num_repeated=self.num_repeated,
            num_held_out=self.num_held_out,
            num_unusable=self.num_unusable,
        )

    def read(self, services: Services, caller: Caller) -> Iterator[bytes]:
        """Return the lines: those of corrected answers first, which replace given ones to the same
        question.
        """
        wanted = self.request.filter.corrected
        for corrected in (True, False):
            if wanted in (None, corrected):
                filter = self.request.filter.model_copy(update={"corrected": corrected})
                for answer in _answers(services, caller, filter):
                    self._count_answer()
                    if (line := self._line_of(answer)) is not None:
                        yield line

    def _count_answer(self) -> None:
        self.num_answers += 1
        if self.num_answers > MAX_ANSWERS:
            raise InvalidRequest(
                f"filter: more than {MAX_ANSWERS} answers match; choose fewer.",
                param="filter",
                code="too_many_answers",
            )

    def _line_of(self, answer: StoredAnswer) -> bytes | None:
        question = json.loads(answer.question)
        corrected = None if answer.corrected is None else json.loads(answer.corrected)
        line = self._write(question, corrected, given_message(json.loads(answer.document)))
        record = None if line is None else _parse(line)
        asked = None if record is None else _question_of(record)
        if line is None or asked is None:
            self.num_unusable += 1
            return None
        if asked in self.held_out:
            self.num_held_out += 1
            return None
        digest = hashlib.sha256(line).digest()
        is_replaced = corrected is None and asked in self._corrected
        if digest in self._written or is_replaced:
            self.num_repeated += 1
            return None
        self._written.add(digest)
        if corrected is not None:
            self._corrected.add(asked)
        return line

    def _write(
        self,
        question: Json,
        corrected: Json | None,
        given: Json | None,
    ) -> bytes | None:
        if self.request.shape == "supervised":
            answer = corrected or given
            return None if answer is None else supervised_line(question, answer)
        if corrected is None or given is None:
            return None
        return preference_line(question, corrected, given)


def _answers(services: Services, caller: Caller, filter: AnswerFilter) -> Iterator[StoredAnswer]:
    after = None
    while True:
        with services.database.read() as session:
            answers = repository.page(
                session,
                caller.project_id,
                filter,
                after=after,
                limit=READ_AT_ONCE,
                order="asc",
                with_questions=True,
            )
        yield from answers[:READ_AT_ONCE]
        if len(answers) <= READ_AT_ONCE:
            return
        after = answers[READ_AT_ONCE - 1].id


def _held_out(services: Services, caller: Caller, request: AnswerFileRequest) -> set[bytes]:
    """Return the questions of the held-out file."""
    if request.held_out_file is None:
        return set()
    try:
        file = files.retrieve_file(services, caller, request.held_out_file)
    except NotFound:
        raise InvalidRequest(
            f"held_out_file: no such file: {request.held_out_file}",
            param="held_out_file",
            code="file_not_found",
        ) from None
    if file.bytes > MAX_HELD_OUT_BYTES:
        raise InvalidRequest(
            f"held_out_file: it has {file.bytes} bytes; the limit is {MAX_HELD_OUT_BYTES}.",
            param="held_out_file",
        )
    records = files.read_records(services, caller, request.held_out_file)
    return {asked for record in records if (asked := _question_of(record)) is not None}


def _parse(line: bytes) -> Record | None:
    try:
        return parse_record(line)
    except BadRecord:
        return None


def _question_of(record: Record) -> bytes | None:
    """Return a digest of the messages before the answer; None for a record without any."""
    match record:
        case ChatRecord():
            messages = [_text_of(message) for message in record.messages[:-1]]
        case PreferenceRecord():
            messages = [_text_of(message) for message in record.input.messages]
        case CompletionRecord():
            messages = [["user", record.prompt]]
        case TextRecord():
            return None
    return hashlib.sha256(json.dumps(messages).encode()).digest()


def _text_of(message: ChatMessage) -> list[str]:
    calls = [call.function.model_dump_json() for call in message.tool_calls or ()]
    return [message.role, message.text, *calls]
