"""The forms that a trained model can be had in, and which of them a recipe allows."""

from typing import Literal, get_args

from falqon_core.contract.block_weights import Weights, title_of
from falqon_core.contract.config import DEFAULT_GROUP_SIZE, Recipe
from falqon_core.contract.errors import UserError
from falqon_core.contract.gguf_support import gguf_obstacle
from falqon_core.contract.model_folder import MIXTURES

FormatName = Literal[
    "fp8",
    "nvfp4",
    "mxfp4",
    "q4_0",
    "q8_0",
    "lora",
    "gguf_lora",
    "bf16",
    "gguf",
    "gguf_q8_0",
    "gguf_q5_k_m",
    "gguf_q4_k_m",
    "gguf_q4_0",
    "q4_1",
]
# Written from a checkpoint and its base model.
MergedFormat = Literal["fp8", "nvfp4", "mxfp4", "q4_0", "q8_0", "q4_1"]
# LoRA is written from a checkpoint, the others from the model as it was trained.
ExactFormat = Literal["lora", "gguf_lora", "bf16", "gguf", "gguf_q4_0"]  # Nothing is rounded anew.
ConvertedFormat = Literal[
    "lora", "gguf_lora", "bf16", "gguf", "gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m", "gguf_q4_0"
]
# A model as it was trained; a recipe's `weights` decide which of them it is.
TRAINED_FORMATS: tuple[Weights, ...] = get_args(Weights)
QuantizedGguf = Literal["gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m"]
ADAPTERS: tuple[FormatName, ...] = ("lora", "gguf_lora")
FROM_CHECKPOINT: tuple[FormatName, ...] = (*ADAPTERS, "q4_1")
QUANTIZED_GGUF: tuple[QuantizedGguf, ...] = ("gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m")
GGUF_FORMATS: tuple[FormatName, ...] = ("gguf", *QUANTIZED_GGUF, "gguf_q4_0", "q4_1")
# Files of the very codes that were trained, by the weights of the recipe.
EXACT_GGUF: dict[Weights, FormatName] = {"q4_0": "gguf_q4_0", "q8_0": "gguf_q8_0"}
# Forms that no training starts from; pages offer them as downloads.
NOT_TRAINABLE: tuple[FormatName, ...] = (*ADAPTERS, *GGUF_FORMATS)

FORMAT_DESCRIPTIONS: dict[FormatName, str] = {
    "fp8": "The merged FP8 checkpoint as it was trained (compressed-tensors): transformers and "
    "vLLM load it.",
    "nvfp4": "The merged model in NVFP4 as it was trained, bit for bit, about 4.5 bits a weight "
    "(compressed-tensors `nvfp4-pack-quantized`): transformers loads it, and vLLM names the "
    "format.",
    "mxfp4": "The merged model in MXFP4 as it was trained, bit for bit, about 4.25 bits a weight "
    "(compressed-tensors `mxfp4-pack-quantized`): transformers loads it, and vLLM names the "
    "format.",
    "q4_0": "The merged model in Q4_0 as it was trained, bit for bit, about 4.5 bits a weight "
    "(compressed-tensors `pack-quantized`): transformers loads it, and vLLM names the format; "
    "gguf_q4_0 is the same for llama.cpp.",
    "q8_0": "The merged model in Q8_0 as it was trained, bit for bit, about 8.5 bits a weight "
    "(compressed-tensors `pack-quantized`): transformers loads it, and vLLM names the format; "
    "gguf_q8_0 is the same for llama.cpp.",
    "lora": "The adapter as it was trained, A and B exactly: `PeftModel.from_pretrained` puts it "
    "on the untouched base model. On the base "
    "in bf16 the answers may differ a little from the FP8 model's, whose merged weights are "
    "rounded to FP8.",
    "gguf_lora": "The same adapter in one GGUF file: llama.cpp puts it on the base model's GGUF as "
    "it loads (`llama-server -m base.gguf --lora adapter.gguf`), or several of them on one base. "
    "Asked here, it shares the base's weights in memory with the others of that base.",
    "bf16": "The model's weights as plain bf16, which holds them exactly: for tools that do "
    "not read compressed-tensors.",
    "gguf": "The model's weights in one GGUF file, bf16, which holds them exactly: llama.cpp "
    "and what is built on it load it; "
    "the gguf_… forms are smaller.",
    "gguf_q8_0": "The same in llama.cpp's blocks of 8 bits (8.5 a weight), rounded by llama.cpp's "
    "own quantizer; of a model with weights in Q8_0 the codes as they were trained.",
    "gguf_q5_k_m": "The same in llama.cpp's mix of 5 and 6 bits (Q5_K_M, about 5.7 a weight), "
    "rounded by llama.cpp's own quantizer.",
    "gguf_q4_k_m": "The same in llama.cpp's mix of 4 and 6 bits (Q4_K_M, about 4.9 a weight), "
    "rounded by llama.cpp's own quantizer: what a laptop runs.",
    "gguf_q4_0": "The codes of a model with weights in Q4_0, bit for bit, in one GGUF file (about "
    "4.5 bits a weight): llama.cpp and what is built on it load it.",
    "q4_1": "The INT4 weights that QA-LoRA trained, bit for bit, in one GGUF file (Q4_1, about 5 "
    "bits a weight): llama.cpp and what is built on it load it.",
}
Q4_1_GROUP_SIZE = 32
MAX_SHARED_RANK = 512  # Of an adapter on a base that others share: vLLM takes no higher one.


class FormatUnavailable(UserError):
    """The model cannot be had in this form, with the reason."""

    code = "format_not_available"
    default_param = "format"


class SharedUnavailable(FormatUnavailable):
    """The model cannot answer as an adapter on its base, with the reason."""

    code = "shared_not_available"


class AdapterRankTooHigh(SharedUnavailable):
    code = "adapter_rank_too_high"


def check_shared(recipe: Recipe, model_config: dict[str, object]) -> None:
    """Check that a model of this recipe can answer as an adapter on its base.

    Raises `SharedUnavailable`.
    """
    if recipe.rank > MAX_SHARED_RANK:
        raise AdapterRankTooHigh(
            f"format: its adapter has rank {recipe.rank}, and engines put adapters of rank "
            f"{MAX_SHARED_RANK} at most on a base that others share"
        )
    try:
        check_format("gguf_lora", recipe, model_config)
    except FormatUnavailable as error:
        raise SharedUnavailable(str(error)) from None


def check_format(format: FormatName, recipe: Recipe, model_config: dict[str, object]) -> None:
    """Check what needs no file; `model_config` is a parsed config.json.

    Raises `FormatUnavailable`.
    """
    _check_weights(format, recipe, model_config)
    if format in ADAPTERS and recipe.update_rule == "topk":
        raise FormatUnavailable(
            "format: with update_rule 'topk' there is no adapter: each step's B is rounded into "
            "the FP8 weights and then forgotten, so no "
            "pair of A and B gives them back; take fp8, bf16 or gguf"
        )
    if format in ADAPTERS and recipe.method == "falqon" and recipe.base_copy == "none":
        raise FormatUnavailable(
            "format: with base_copy 'none' there is no adapter: each step is rounded into the FP8 "
            "weights by chance and then forgotten, so "
            "no pair of A and B gives them back; take fp8, bf16 or gguf"
        )
    if format == "q4_1":
        _check_int4(recipe, model_config)
    if format == "gguf_lora" and recipe.chat_template_kwargs:
        raise FormatUnavailable(
            "format: it was trained with variables of the chat template, which the base model's "
            "GGUF does not set; take gguf"
        )
    kind = model_config.get("model_type")
    if format == "gguf_lora" and kind in ("lfm2", "qwen3_5_text", *MIXTURES):
        raise FormatUnavailable(
            "format: an adapter of a hybrid or a mixture has not been shown to work in llama.cpp; "
            "take lora, or gguf for llama.cpp"
        )
    if format in QUANTIZED_GGUF and kind in MIXTURES:
        raise FormatUnavailable(
            "format: a mixture's experts are not rounded here; take gguf, which `llama-quantize` "
            "makes smaller"
        )
    if format in (*GGUF_FORMATS, "gguf_lora"):
        _check_gguf(recipe, model_config)


def _check_weights(format: FormatName, recipe: Recipe, model_config: dict[str, object]) -> None:
    weights, title = recipe.weights, title_of(recipe.weights)
    if format in TRAINED_FORMATS and format != weights:
        if weights == "fp8":
            raise FormatUnavailable(
                f"format: only a training of method 'falqon' with weights {format!r} has this "
                "form; take fp8"
            )
        raise FormatUnavailable(
            f"format: its weights were trained in {title}, and rounding them to another form would "
            f"change them; take {weights}, or bf16, which holds them exactly"
        )
    if format == "gguf_q4_0" and weights != "q4_0":
        raise FormatUnavailable(
            "format: only weights 'q4_0' are trained in these blocks; take gguf_q4_k_m, which "
            "rounds them afterwards"
            if weights == "fp8"
            else f"format: its weights were trained in {title}; take gguf, which holds them exactly"
        )
    if weights == "fp8":
        return
    if format in ADAPTERS:
        raise FormatUnavailable(
            f"format: its adapter was trained through the rounding to {title}, and beside weights "
            f"that are not rounded it is another model; take {weights}, bf16 or gguf"
        )
    exact = EXACT_GGUF.get(weights)
    if format in QUANTIZED_GGUF and format != exact:
        raise FormatUnavailable(
            f"format: its weights are in {title} already, and rounding them again would change "
            f"them; take {exact or 'gguf'}, which holds them exactly"
        )
    if format == exact and model_config.get("model_type") == "qwen3_5_text":
        raise FormatUnavailable(
            "format: the columns of Qwen3.5's delta nets stand in another order in llama.cpp, "
            "which its blocks do not follow; take gguf"
        )


def _check_int4(recipe: Recipe, model_config: dict[str, object]) -> None:
    kind = model_config.get("model_type")
    if kind in MIXTURES:
        raise FormatUnavailable(
            "format: a mixture has no Q4_1 file, as its experts are not trained in INT4; take "
            "gguf, which `llama-quantize` makes smaller"
        )
    if kind == "qwen3_5_text":
        raise FormatUnavailable(
            "format: the columns of Qwen3.5's delta nets stand in another order in llama.cpp, "
            "which Q4_1 blocks do not follow; take gguf_q4_k_m"
        )
    if recipe.method != "qa_lora":
        raise FormatUnavailable(
            "format: only method 'qa_lora' trains weights in INT4; take gguf_q4_k_m, which rounds "
            "them afterwards"
        )
    group_size = recipe.group_size or DEFAULT_GROUP_SIZE
    if group_size != Q4_1_GROUP_SIZE:
        raise FormatUnavailable(
            f"format: Q4_1 has groups of {Q4_1_GROUP_SIZE} weights, and this model was trained "
            f"with group_size {group_size}; take fp8, bf16 or gguf"
        )


def _check_gguf(recipe: Recipe, model_config: dict[str, object]) -> None:
    obstacle = gguf_obstacle(model_config)
    if obstacle is not None:
        raise FormatUnavailable(f"format: {obstacle}; take {recipe.weights} or bf16")
