"""Download a repository from the Hugging Face Hub: safetensors, JSON, tokenizer files only."""

from pathlib import Path

from huggingface_hub import snapshot_download
from transformers.utils import CHAT_TEMPLATE_DIR

from falqon_core.contract.errors import ModelError
from falqon_core.importers.folder import MODEL_FILES

# The same weights in the layouts of other programs, and all else that the patterns of `MODEL_FILES`
# match below the repository's own folder: their stars stand for slashes as well.
UNWANTED = (
    "consolidated*.safetensors", "*/*.safetensors", "*/*.json", "LICENSE*/*", "NOTICE*/*",
    f"{CHAT_TEMPLATE_DIR}/*/*",
)  # fmt: skip


def download(repository: str, folder: Path) -> None:
    """`repository` is OWNER/NAME or OWNER/NAME@REVISION. Raises `ModelError` with the first line of
    what went wrong.
    """
    name, _, revision = repository.partition("@")
    try:
        snapshot_download(
            name,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=list(UNWANTED),
        )
    except (OSError, ValueError) as error:  # The library's own errors derive from these.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} cannot be fetched from the Hugging Face Hub: {reason}") from None
