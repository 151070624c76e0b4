"""A model into a repository on the Hugging Face Hub, or on what speaks its protocol at
`HF_ENDPOINT`: the files of `falqon download`, handed to Hugging Face's own library, in one commit.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.client.api import segment
from app.client.command import Client, ModelId, argument
from app.client.download import download_files, folder_name
from app.client.errors import ClientError, Misused, NoConnection, Refused

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_PREFIX = "hf:"
COMMIT_MESSAGE = "Upload with FALQON"
RETRY_ADVICE = "Run the same command again; what has arrived does not travel twice."
MAX_ANSWER_LENGTH = 300  # characters of what a hub answers
WHICH_TOKEN = "Set HF_TOKEN to one that may write there, or run `hf auth login`."


def publish(
    client: Client,
    model: ModelId,
    destination: Annotated[str, argument(help="hf:OWNER/NAME, created if missing.")],
    private: Annotated[
        bool,
        typer.Option("--private", help="Publish privately; refused for a public repository."),
    ] = False,
) -> None:
    """Upload every file of a model to a Hugging Face hub. Run it again to go on after an
    interruption.
    """
    if not destination.startswith(HUB_PREFIX):
        raise Misused(
            f"'{destination}' is no destination.",
            "Give hf:OWNER/NAME; `falqon download MODEL --output FOLDER` fills a folder.",
        )
    manifest = client.api.get(f"/models/{segment(model)}/artifacts/manifest.json")
    hub = _hub(quiet=client.out.as_json or not client.out.console.is_terminal)
    folder = Path(f".{folder_name(model)}.publish")
    with _explain_refusals(hub.endpoint):
        repository = _repository(hub, destination.removeprefix(HUB_PREFIX), private)
    download_files(client, model, manifest, folder)
    with _explain_refusals(hub.endpoint):
        from huggingface_hub import CommitOperationAdd

        files = [
            CommitOperationAdd(file["name"], folder / file["name"]) for file in manifest["files"]
        ]
        commit = hub.create_commit(repository, files, commit_message=COMMIT_MESSAGE)
    shutil.rmtree(folder, ignore_errors=True)
    client.out.say(
        f"{model}: {len(files)} files are at {hub.endpoint}/{repository}, commit {commit.oid}."
    )
    client.out.show(
        {
            "model": model,
            "repository": repository,
            "commit": commit.oid,
            "files": manifest["files"],
        }
    )


def _hub(*, quiet: bool) -> "HfApi":
    """Return the hub's client, with the token and endpoint that the library finds by itself."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise Refused(
            "Publishing is done by huggingface_hub, which is not installed.",
            "pip install 'huggingface-hub>=1'",
        ) from None
    if quiet:
        disable_progress_bars()
    return HfApi()


def _repository(hub: "HfApi", name: str, private: bool) -> str:
    """Its id on the hub. One that others can read is not made private behind their backs."""
    repository = hub.create_repo(name, private=private or None, exist_ok=True).repo_id
    if private and not hub.model_info(repository).private:
        raise Refused(
            f"{repository} is there already and is public; nothing was uploaded.",
            "Leave out --private, or name another.",
        )
    return repository


@contextmanager
def _explain_refusals(endpoint: str) -> Iterator[None]:
    """Raise the library's errors as ours, without the upload addresses, which are secrets."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.errors import HTTPError as NoAnswer  # type: ignore[attr-defined]  # of whichever HTTP library it speaks with

    try:
        yield
    except HFValidationError as error:
        raise Misused(str(error)) from None
    except (NoAnswer, OSError, ValueError, RuntimeError) as error:
        cause: BaseException = error
        while not isinstance(cause, NoAnswer) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(
                endpoint,
                cause.response.status_code,
                cause.server_message or cause.response.reason_phrase,
            ) from None
        if isinstance(cause, NoAnswer | ConnectionError):
            raise NoConnection(
                f"{endpoint} cannot be reached: {cause}", f"Is HF_ENDPOINT right? {RETRY_ADVICE}"
            ) from None
        raise Refused(f"{endpoint} did not take the model: {error}", RETRY_ADVICE) from None


def _refusal(endpoint: str, status: int, answer: str) -> ClientError:
    answer = " ".join(answer.split())[:MAX_ANSWER_LENGTH]
    if status in (401, 403):
        return NoConnection(
            f"{endpoint} does not let this token write there ({status}): {answer}", WHICH_TOKEN
        )
    return Refused(f"{endpoint} did not take the model ({status}): {answer}", RETRY_ADVICE)
