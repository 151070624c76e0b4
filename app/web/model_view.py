"""The model page's view beside the API's object: the model's origin, the ways to get it, and its
certificate."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from obstore.exceptions import BaseError as StorageError
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.artifacts.schemas import ArtifactObject
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.catalogue.naming import UNSAFE_CHARACTERS
from app.catalogue.schemas import NOT_SERVABLE, ModelObject
from app.files import service as files
from app.jobs import service as jobs
from app.jobs.base_model import began_from
from app.models import Job
from app.services import Services
from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.formats import TRAINED_FORMATS

MAX_GENERATIONS = 20
CERTIFICATES = (
    CERTIFICATE,
    *(f"{weights}-{CERTIFICATE}" for weights in TRAINED_FORMATS),
)  # An export carries the certificate of the model it was made from.
MAX_CERTIFICATE_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Command:
    tool: str
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class TrainedOn:
    use: str
    file_id: str
    name: str | None  # None: it has been deleted


@dataclass(frozen=True, slots=True)
class Generation:
    """One model of a line, and what made it."""

    model_id: str
    model: ModelObject | None  # None: it has been deleted
    job: Job | None
    began_from: str | None  # The checkpoint that its training began from.
    files: list[TrainedOn]


def lineage(session: Session, project_id: str, model_id: str) -> list[Generation]:
    """Return the model, what it was made from, and so on to the base model of all."""
    line: list[Generation] = []
    following: str | None = model_id
    while following is not None and len(line) < MAX_GENERATIONS:
        line.append(_generation(session, project_id, following))
        model = line[-1].model
        following = (exported_from(model) or model.base_model) if model else None
    return line


def exported_from(model: ModelObject) -> str | None:
    """Return the model whose other form this one is."""
    source = model.id.removesuffix(f":{model.format}")
    if model.format is None or source == model.id:
        return None
    return source


def commands(model: ModelObject, names: Sequence[str], origin: str) -> list[Command]:
    """Return lines for a shell; what a name holds stays one word of it. `names`: of the model's
    files.
    """
    folder = UNSAFE_CHARACTERS.sub("-", model.id).strip(".-") or "model"
    hub = f"HF_ENDPOINT={shlex.quote(origin + '/hub')} HF_TOKEN=$FALQON_API_KEY"
    lines = [
        *_questions(model, origin),
        *_servers(model, names, folder),
        Command(
            "falqon",
            "Download the model, verified and resumable",
            f"falqon download {shlex.quote(model.id)} --output {folder}",
        ),
        Command(
            "hf",
            "Download with the Hugging Face client",
            f"{hub} hf download {shlex.quote(model.hub_id)} --local-dir {folder}",
        ),
        *_curl(model, names, origin),
    ]
    return lines


def _questions(model: ModelObject, origin: str) -> list[Command]:
    """Return programs that ask the model, if the service can."""
    if model.format == NOT_SERVABLE:
        return []
    body = {"model": model.id, "messages": [{"role": "user", "content": "Hello"}]}
    curl = (
        f"curl {shlex.quote(origin + '/v1/chat/completions')} \\\n"
        '  -H "Authorization: Bearer $FALQON_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )
    python = (
        "import os\n\nfrom openai import OpenAI\n\n"
        f"client = OpenAI(base_url={json.dumps(origin + '/v1')},"
        ' api_key=os.environ["FALQON_API_KEY"])\n'
        "answer = client.chat.completions.create(\n"
        f"    model={json.dumps(model.id)},\n"
        '    messages=[{"role": "user", "content": "Hello"}],\n)\n'
        "print(answer.choices[0].message.content)"
    )
    return [
        Command("curl", "Ask the model", curl),
        Command("Python", "Ask the model with the OpenAI client", python),
    ]


def _servers(model: ModelObject, names: Sequence[str], folder: str) -> list[Command]:
    """Return the line that serves or loads the downloaded folder."""
    gguf = next((name for name in names if name.endswith(".gguf")), None)
    if model.format == "gguf_lora" and gguf is not None:
        serve = f"llama-server -m base.gguf --lora ./{folder}/{shlex.quote(gguf)}"
        return [Command("llama.cpp", "Serve it on its base model", serve)]
    if gguf is not None:
        serve = f"llama-server -m ./{folder}/{shlex.quote(gguf)}"
        return [Command("llama.cpp", "Serve the downloaded folder", serve)]
    if model.format == "lora":
        load = f'model = PeftModel.from_pretrained(base, "{folder}")'
        return [Command("PEFT", "Load it on its base model, in Python", load)]
    if "config.json" in names:
        return [Command("vLLM", "Serve the downloaded folder", f"vllm serve ./{folder}")]
    return []


def _curl(model: ModelObject, names: Sequence[str], origin: str) -> list[Command]:
    name = next((name for name in names if name != "README.md"), None)
    if name is None:
        return []
    url = f"{origin}/v1/models/{quote(model.id, safe=':')}/artifacts/{quote(name)}"
    key = '-H "Authorization: Bearer $FALQON_API_KEY"'
    text = f"curl -fO --retry 5 -C - {key} {shlex.quote(url)}"
    return [Command("curl, one file", "Download a single file", text)]


def certificate(
    services: Services, caller: Caller, artifact_objects: Sequence[ArtifactObject]
) -> Certificate | None:
    """Read it; None where none can be read. The file itself stays among the others."""
    file = next(
        (
            artifact
            for artifact in artifact_objects
            if artifact.name in CERTIFICATES and artifact.bytes <= MAX_CERTIFICATE_BYTES
        ),
        None,
    )
    if file is None:
        return None
    with services.database.read() as session:
        key = artifacts.get(session, caller.project_id, file.model, file.name).storage_key
    try:
        return Certificate.model_validate_json(b"".join(services.storage.chunks(key)))
    except (FileNotFoundError, StorageError, ValidationError):
        return None


def _generation(session: Session, project_id: str, model_id: str) -> Generation:
    try:
        model = ModelObject.of(catalogue.get(session, project_id, model_id))
    except NotFound:
        return Generation(model_id, None, None, None, [])
    job = _job(session, project_id, model.fine_tuning_job)
    if job is None or exported_from(model) is not None:
        return Generation(model_id, model, job, None, [])
    uses = (("Trained on", job.training_file_id), ("Validated on", job.validation_file_id))
    trained_on = [
        TrainedOn(use, id_, _filename(session, project_id, id_))
        for use, id_ in uses
        if id_ is not None
    ]
    checkpoint = began_from(session, job) if job.base_checkpoint_id else None
    return Generation(model_id, model, job, checkpoint, trained_on)


def _job(session: Session, project_id: str, job_id: str | None) -> Job | None:
    try:
        if job_id is None:
            return None
        return jobs.get(session, project_id, job_id)
    except NotFound:
        return None


def _filename(session: Session, project_id: str, file_id: str) -> str | None:
    file = files.find(session, project_id, file_id)
    return None if file is None else file.filename
