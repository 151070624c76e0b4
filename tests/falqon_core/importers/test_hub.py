from huggingface_hub.utils import filter_repo_objects

from falqon_core.importers.folder import MODEL_FILES
from falqon_core.importers.hub import UNWANTED


def test_of_a_repository_only_the_files_of_a_model_are_fetched() -> None:
    wanted = [
        "LICENSE.txt", "additional_chat_templates/tool_use.jinja", "chat_template.jinja",
        "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json",
    ]  # fmt: skip
    others = [
        "LICENSES/model.txt", "NOTICES/a/b", "additional_chat_templates/notes.txt",
        "additional_chat_templates/old/tool_use.jinja", "consolidated.00.safetensors",
        "consolidated.safetensors", "fp16/model.safetensors", "modeling.py", "onnx/config.json",
        "original/model.safetensors.index.json", "pytorch_model.bin", "templates/other.jinja",
        "additional_chat_templates/model.safetensors",
    ]  # fmt: skip
    patterns = {"allow_patterns": list(MODEL_FILES), "ignore_patterns": list(UNWANTED)}
    assert list(filter_repo_objects(wanted + others, **patterns)) == wanted
