"""The lines of a file that a training holds out."""

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import DatasetError
from falqon_core.data.dataset import choose_held_out, encode_file
from falqon_core.data.sequences import Encoder
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.importers.tokenizer import load_tokenizer


def held_out_lines(config: TrainConfig) -> list[int]:
    """Return their numbers, ascending, as `train.data.load_data` splits the file. Raises as
    training would.
    """
    recipe = config.recipe
    tokenizer = load_tokenizer(config.model)
    set_template_defaults(tokenizer, recipe.chat_template_kwargs)
    encoder = Encoder(tokenizer, recipe.max_seq_length, recipe.text_overlap_tokens)
    lines = [
        encoded.line
        for encoded in encode_file(config.train_file, encoder, "training_file", recipe.objective)
        if not isinstance(encoded, DatasetError) and any(item.has_targets for item in encoded.items)
    ]
    has_validation_file = config.validation_file is not None
    fraction = recipe.with_fraction(len(lines), has_validation_file).validation_fraction
    places = choose_held_out(len(lines), fraction or 0.0, recipe.validation_seed)
    return sorted(lines[place] for place in places.tolist())
