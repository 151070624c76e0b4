import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from falqon_core.contract.errors import DatasetError
from falqon_core.contract.messages import Answering, ExitCode, Failed, decode
from falqon_core.train import generation
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.samples import generate

PROMPT = "What is the code of the lamp?"


def answers(models: list[Path], prompt: str, max_tokens: int = 12) -> list[str]:
    told = [""] * len(models)

    def tell(piece: Answering) -> None:
        told[piece.model] += piece.text

    generation.answer(models, prompt, max_tokens, tell)
    return told


def test_the_pieces_are_what_the_model_generates_after_its_chat_template(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    turn = [{"role": "user", "content": PROMPT}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="np", return_dict=True)["input_ids"][0]
    tokens = generate(load_base_model(tiny_folder), prompt, 12, tokenizer.eos_token_id)

    assert answers([tiny_folder, tiny_folder], PROMPT) == [tokenizer.decode(tokens, skip_special_tokens=True)] * 2


def test_without_a_template_the_prompt_is_plain_text(tiny_folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in tiny_folder.iterdir():
        if path.name != "chat_template.jinja":
            (plain / path.name).symlink_to(path)
    config = json.loads((tiny_folder / "tokenizer_config.json").read_text())
    (plain / "tokenizer_config.json").unlink()
    (plain / "tokenizer_config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "chat_template"}))

    assert load_tokenizer(plain).chat_template is None
    (with_template,), (without,) = answers([tiny_folder], PROMPT), answers([plain], PROMPT)
    assert without
    assert without != with_template


def test_a_prompt_that_does_not_fit_is_refused_with_the_limit(tiny_folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"the prompt has [\d,]+ tokens; from 1 to [\d,]+ can be answered"):
        answers([tiny_folder], PROMPT * 400)


def run(arguments: list[str]) -> tuple[int, list[object]]:
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "falqon_core", "answer", *arguments, "--message-fd", str(write_end)]
    done = subprocess.run(command, pass_fds=[write_end], check=False, capture_output=True)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as messages:
        return done.returncode, [decode(line) for line in messages]


def test_the_command_tells_the_pieces_as_messages_and_what_went_wrong_as_one(tiny_folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_text(PROMPT)

    code, messages = run([str(tiny_folder), "--prompt", str(prompt), "--max-tokens", "8"])
    assert code == ExitCode.DONE
    assert all(isinstance(message, Answering) for message in messages)

    code, messages = run([str(tmp_path), "--prompt", str(prompt)])
    (failed,) = messages
    assert isinstance(failed, Failed)
    assert (code, failed.param) == (ExitCode.USER_ERROR, "model")
