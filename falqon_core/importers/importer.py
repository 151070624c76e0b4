"""Bring a base model into a folder that holds only what training and serving read: config,
safetensors, tokenizer, licence.

The source decides how: a folder, a `.gguf` file, `hf:REPO` on the Hugging Face Hub, or
`builtin:falqon-tiny`. Nothing in a source is ever executed, it is read within limits of time and
memory (`limits`), and the output appears whole or not at all. Weights in any other format are
refused.
"""

import tempfile
from pathlib import Path

from falqon_core.contract.errors import ModelError
from falqon_core.contract.gguf_support import engine_note
from falqon_core.contract.model_folder import read_config
from falqon_core.files import staged_folder
from falqon_core.importers.limits import limit_resources, size_of
from falqon_core.importers.tiny import build_tiny

BUILTIN_MODEL = "builtin:falqon-tiny"


def import_model(source: str, output: Path) -> list[str]:
    """Import a model; return, in sentences, the conversions and, where the workers' own engine
    cannot load it, what it takes to ask it.

    Raises `ModelError` when `output` exists, or when the source is missing, unsupported, or refused
    as unsafe.
    """
    if output.exists():
        raise ModelError(f"{output.name} exists already")
    if source == BUILTIN_MODEL:
        build_tiny(output)
        return []
    if not source.startswith("hf:") and not Path(source).exists():
        raise ModelError(f"{source} is not there")
    # These load torch, which takes seconds, and what is built here does without.
    from falqon_core.importers.folder import copy_model, move_model
    from falqon_core.importers.gguf import convert_gguf
    from falqon_core.importers.hub import download

    with staged_folder(output) as staging:
        if source.startswith("hf:"):
            with tempfile.TemporaryDirectory(prefix=".download.", dir=output.parent) as folder:
                repository = source.removeprefix("hf:")
                download(repository, Path(folder))
                with limit_resources(size_of(Path(folder))):
                    name = repository.partition("@")[0]
                    conversions = move_model(Path(folder), staging, name)
        else:
            with limit_resources(size_of(Path(source))):
                bring = convert_gguf if source.lower().endswith(".gguf") else copy_model
                conversions = bring(Path(source), staging)
        note = engine_note(read_config(staging))
    return conversions if note is None else [*conversions, note]
