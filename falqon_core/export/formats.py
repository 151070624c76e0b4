"""Other forms of a trained model than its folder, each made from files that are kept anyway.

The adapters come from a checkpoint, the others from the folder of a trained model, whose weights
are exact in bf16: `bf16` and `gguf` compute what that model computes, and no rounding is added;
`gguf_q4_0` has the codes that were trained; the smaller GGUF forms round, and `train.rounding`
writes them. All need memory for the model in bf16. `q4_1` needs the base model beside the
checkpoint: `train.q4_1` writes it.
"""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from falqon_core.contract.certificate import CERTIFICATE
from falqon_core.contract.formats import (
    FORMAT_DESCRIPTIONS,
    GGUF_FORMATS,
    ExactFormat,
    FormatName,
)
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.quantization_config import weights_of
from falqon_core.contract.template_kwargs import write_template_kwargs
from falqon_core.export.adapter import write_adapter, write_gguf_adapter
from falqon_core.export.checksums import write_sha256sums
from falqon_core.export.gguf import write_gguf
from falqon_core.export.merged import write_merged
from falqon_core.export.provenance import CARD_TAG, HUB_ID, CardFields, card_fields, copy_licence
from falqon_core.files import staged_folder, write_whole


def write_format(
    format: ExactFormat, source: Path, output: Path, name: str, base_model: str
) -> None:
    """`source`: an exported model's folder; for adapters a checkpoint's, with what there is of the
    card and licence of the model.

    `name` is shown, and `base_model` where `source` does not say what the base is called on the
    Hub. Writes `output`, whole or not at all. Raises `FormatUnavailable`, and the errors of reading
    `source`.
    """
    fields = card_fields(source, base_model)
    use = ""
    with staged_folder(output) as staging:
        match format:
            case "lora":
                # An adapter trained from a fine-tuned model does not fit on that one's base.
                on_the_hub = HUB_ID.fullmatch(base_model)
                recipe = write_adapter(
                    source, staging, str(fields["base_model"]) if on_the_hub else base_model
                )
                if kwargs := write_template_kwargs(recipe.chat_template_kwargs):
                    use = (
                        "It was trained with variables of the base model's chat template, which "
                        f"serving has to give it: `chat_template_kwargs` = `{kwargs}`\n\n"
                    )
            case "gguf_lora":
                write_gguf_adapter(source, staging, name)
            case "bf16":
                write_merged(source, staging)
            case "gguf" | "gguf_q4_0":
                write_gguf(source, staging, name, format)
        copy_certificate(source, staging)
        document_format(format, source, staging, name, fields, use)


def copy_certificate(source: Path, folder: Path) -> None:
    """Copy the certificate of the model that a form is made from, if it has one."""
    # It is about the weights of the source, and lists the files it was made for.
    if (source / CERTIFICATE).is_file():
        weights = weights_of(read_config(source)) or "fp8"
        shutil.copyfile(source / CERTIFICATE, folder / f"{weights}-{CERTIFICATE}")


def document_format(
    format: FormatName, source: Path, folder: Path, name: str, fields: CardFields, use: str = ""
) -> None:
    """Write all that stands around the weights in `folder`: a card with `use` in it, the licence
    that `source` has, and checksums.
    """
    copy_licence(source, folder)
    write_whole(folder / "README.md", _card(format, name, fields, use))
    write_sha256sums(folder)


_LIBRARIES: dict[FormatName, str] = {
    "lora": "peft",
    **dict.fromkeys((*GGUF_FORMATS, "gguf_lora"), "gguf"),
}


def _card(format: FormatName, name: str, fields: CardFields, use: str) -> str:
    library = _LIBRARIES.get(format, "transformers")
    front_matter = ModelCardData(
        library_name=library, pipeline_tag="text-generation", tags=[CARD_TAG, format], **fields
    )
    return f"""---
{front_matter.to_yaml()}
---
# {name}

{FORMAT_DESCRIPTIONS[format]}

{use}`sha256sum -c {SHA256SUMS}` verifies a download.
"""
