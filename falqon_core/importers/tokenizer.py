"""The tokenizer of a model folder, without the imports that build a model and take seconds."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from falqon_core.contract.errors import blamed_on_model
from falqon_core.contract.model_folder import check_model_files


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer as training and serving do.

    Raises `ModelError` where the folder has no usable one, or holds refused files.
    """
    check_model_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # The library raises plain exceptions as well.
        raise blamed_on_model("the tokenizer cannot be loaded", error) from error
