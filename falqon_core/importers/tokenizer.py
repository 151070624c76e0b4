"""The tokenizer of a model folder, without what builds the model: who only counts tokens should not
wait for that.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from falqon_core.contract.errors import blamed_on_model
from falqon_core.contract.model_folder import check_model_files


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer as training and serving do.

    Raises `ModelError` when the folder has no usable one, or holds what is refused.
    """
    check_model_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises plain ones, too
        raise blamed_on_model("the tokenizer cannot be loaded", error) from error
