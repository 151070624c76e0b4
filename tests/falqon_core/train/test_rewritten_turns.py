"""A chat whose turns the template rewrites trains, resumes and is served as it was trained."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.messages import Log, Started
from falqon_core.data.dataset import load_dataset
from falqon_core.data.sequences import SequenceGroup
from falqon_core.train.exporter import export_training
from tests.falqon_core.data.families import QWEN3
from tests.falqon_core.train.trainings import of, train

NUM_RECORDS = 12
KWARGS = {"enable_thinking": False}
RECIPE = Recipe(
    rank=8,
    max_seq_length=128,
    microbatch_tokens=128,
    batch_size=4,
    max_steps=4,
    checkpoint_every=2,
    validation_fraction=0.1,
    sample_tokens=2,
    chat_template_kwargs=KWARGS,
)


def chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"How many apples are {number} and one?"},
        {"role": "assistant", "content": f"{number + 1} apples."},
        {"role": "user", "content": "And one more?"},
        {"role": "assistant", "content": f"{number + 2} apples."},
    ]


@pytest.mark.usefixtures("certified_here")
def test_two_turns_train_resume_and_are_served_as_trained(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "base"
    shutil.copytree(tiny_folder, model)
    (model / "chat_template.jinja").write_text(QWEN3.template)
    data = tmp_path / "train.jsonl"
    rows = [json.dumps({"messages": chat(number)}) for number in range(NUM_RECORDS)]
    data.write_text("\n".join(rows))
    config = TrainConfig(model=model, train_file=data, num_threads=1, recipe=RECIPE)

    train(config, tmp_path / "stopped", stop_after=2)
    train(config, tmp_path / "stopped")
    _, messages = train(config, tmp_path / "whole")

    exported = [tmp_path / output / "model" for output in ("stopped", "whole")]
    weights = [(folder / "model.safetensors").read_bytes() for folder in exported]
    assert weights[0] == weights[1]
    (started,) = of(Started, messages)
    assert (started.total_steps, started.num_records) == (4, NUM_RECORDS - 1)
    logs = [message.text for message in of(Log, messages)]
    assert any("12 records is a sequence of its own, 24 together" in text for text in logs)

    export_training(tmp_path / "whole", model, tmp_path / "again")
    for folder in (exported[1], tmp_path / "again"):
        assert "enable_thinking" in (folder / "README.md").read_text()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        items = load_dataset(data, tokenizer, 128).sequences
        for number, item in enumerate(items):
            assert isinstance(item, SequenceGroup)
            for turn, sequence in zip((1, 3), item.sequences, strict=True):
                prompt = tokenizer.apply_chat_template(
                    chat(number)[:turn], add_generation_prompt=True, return_dict=True
                )["input_ids"]
                start = int(sequence.loss_mask.argmax())
                assert sequence.input_ids[:start].tolist() == prompt
                assert "</think>" in tokenizer.decode(prompt)
                answer = tokenizer.decode(sequence.input_ids[sequence.loss_mask])
                assert answer == chat(number)[turn]["content"] + "<|im_end|>"
