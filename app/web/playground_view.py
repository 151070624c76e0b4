"""Example prompts of the playground, from the data that a model was made with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from app.auth.caller import Caller
from app.base.errors import BytesMissing, NotFound
from app.catalogue.schemas import ModelObject
from app.files import service as files
from app.jobs import service as jobs
from app.services import Services
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
)

MAX_PROMPTS = 8
CHAT_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class ExamplePrompt:
    """A question of a file, with what stands before it, and its answer there."""

    system: str
    turns: list[dict[str, str]]  # the last one is the question
    expected: str

    @property
    def question(self) -> str:
        return self.turns[-1]["content"]

    @property
    def document(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Prompts:
    are_validation: bool  # Validation data; otherwise training data.
    prompts: list[ExamplePrompt]


def list_prompts(services: Services, caller: Caller, models: Sequence[ModelObject]) -> Prompts:
    """List the first prompts of the job that made one of the models."""
    job_id = next((model.fine_tuning_job for model in models if model.fine_tuning_job), None)
    if job_id is None:
        return Prompts(False, [])
    try:
        with services.database.read() as session:
            job = jobs.get(session, caller.project_id, job_id)
        file_id = job.validation_file_id or job.training_file_id
        records = files.read_first_records(services, caller, file_id)
    except (NotFound, BytesMissing):  # The job or the file has been deleted, or its bytes are lost.
        return Prompts(False, [])
    prompts = [prompt for record in records if (prompt := prompt_of(record)) is not None]
    return Prompts(job.validation_file_id is not None, prompts[:MAX_PROMPTS])


def prompt_of(record: Record) -> ExamplePrompt | None:
    """Return the first question of a record; None where it has none, or needs tools."""
    match record:
        case CompletionRecord():
            return ExamplePrompt(
                "", [{"role": "user", "content": record.prompt}], record.completion
            )
        case PreferenceRecord():
            messages = [*record.input.messages, *record.preferred_output]
            has_tools = record.input.tools is not None
            return None if has_tools else _prompt_of_chat(messages, len(messages) - 1)
        case ChatRecord() if record.tools is None:
            learned = (
                index
                for index, message in enumerate(record.messages)
                if message.role == "assistant" and message.weight != 0
            )
            return _prompt_of_chat(record.messages, next(learned))
    return None


def _prompt_of_chat(messages: Sequence[ChatMessage], index: int) -> ExamplePrompt | None:
    """Return the messages before the answer at `index`."""
    before = messages[:index]
    system = "\n".join(message.text for message in before if message.role == "system")
    turns = [message for message in before if message.role != "system"]
    is_plain = all(message.role in CHAT_ROLES and not message.tool_calls for message in turns)
    if not turns or turns[-1].role != "user" or not is_plain:
        return None
    contents = [{"role": message.role, "content": message.text} for message in turns]
    return ExamplePrompt(system, contents, messages[index].text)
