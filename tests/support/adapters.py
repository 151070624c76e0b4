"""Adapters for llama.cpp as models of their own."""

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize, quantize

from app.base.database import Database
from app.base.storage import Storage
from app.models import Artifact, Model
from falqon_core.contract.model_folder import read_config

ADAPTER = "adapter.gguf"
LINEAR = "model.layers.1.mlp.down_proj"
RANK = 4


def write_variant(adapter: Path, path: Path, seed: int, most: float) -> None:
    """Write the adapter of another training: B of each linear is that of `adapter` times a random
    number between `-most` and `most`.
    """
    shutil.copyfile(adapter, path)
    random = np.random.default_rng(seed)
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name.endswith(".lora_b"):
            values = dequantize(tensor.data, tensor.tensor_type) * random.uniform(-most, most)
            tensor.data[:] = quantize(values, tensor.tensor_type)


def tiny_gguf(folder: Path) -> Path:
    """Return falqon-tiny as one GGUF file; its config.json stands beside it."""
    from falqon_core.export.gguf import write_gguf
    from falqon_core.importers.importer import import_model

    import_model("builtin:falqon-tiny", folder)
    write_gguf(folder, folder, "base")
    return folder / "model.gguf"


def random_adapter(base: Path, seed: int) -> Path:
    """Write an adapter of a base model's folder beside it, strong enough that it answers in a way
    of its own.
    """
    import torch

    from falqon_core.export.gguf import write_gguf_adapter_file

    config = read_config(base)
    torch.manual_seed(seed)
    a = torch.randn(RANK, config["intermediate_size"])
    b = torch.randn(config["hidden_size"], RANK)
    path = base.parent / f"{seed}.gguf"
    write_gguf_adapter_file(path, f"adapter {seed}", config, RANK, {LINEAR: (a, b)})
    return path


def add_adapter(
    database: Database, storage: Storage, project_id: str, name: str, base: str, path: Path
) -> None:
    """Add the model of an adapter as its export would."""
    with database.transaction() as session:
        config = session.get_one(Model, base).config
        values = {"base_model_id": base, "format": "gguf_lora", "config": config}
        num_bytes = path.stat().st_size
        session.add(Model(id=name, project_id=project_id, bytes=num_bytes, **values))
        session.flush()
        key = f"models/{name}/{ADAPTER}"
        stored = storage.put_file(key, path)
        row = {"model_id": name, "name": ADAPTER, "storage_key": key}
        session.add(Artifact(**row, **stored._asdict()))
