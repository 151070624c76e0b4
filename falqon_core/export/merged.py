"""The folder of a trained model as plain bf16: the same folder with weight = codes * scale, exact
in bf16, and without its `quantization_config`.
"""

import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from transformers.utils import CHAT_TEMPLATE_DIR

from falqon_core.contract.certificate import CERTIFICATE
from falqon_core.contract.errors import ModelError
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.contract.model_folder import read_config
from falqon_core.export.curve import CURVE_FILE
from falqon_core.export.reading import is_ours, load_dequantized
from falqon_core.files import write_json

REPLACED_FILES = {
    "config.json",
    "README.md",
    CURVE_FILE,
    SHA256SUMS,
    CERTIFICATE,
    "model.safetensors.index.json",
}


def write_merged(model: Path, folder: Path, max_shard_size: str = "5GB") -> None:
    """Into an existing folder. Raises `ModelError` for any other model than a trained folder."""
    config = read_config(model)
    if not is_ours(config):
        raise ModelError(f"{model.name} is no quantized model that was trained here", "source")
    save_torch_state_dict(load_dequantized(model), folder, max_shard_size=max_shard_size)
    del config["quantization_config"]
    write_json(folder / "config.json", config)
    for path in model.iterdir():
        if path.is_file() and path.name not in REPLACED_FILES and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    named_templates = model / CHAT_TEMPLATE_DIR
    if named_templates.is_dir():
        shutil.copytree(named_templates, folder / CHAT_TEMPLATE_DIR)
