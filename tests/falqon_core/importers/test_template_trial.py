from pathlib import Path

import pytest

from falqon_core.data import resource_limits
from falqon_core.importers import template_trial
from falqon_core.importers.template_trial import TemplateRefused, templates_of, try_templates
from falqon_core.importers.tiny import build_tiny
from tests.falqon_core.data.test_hostile_templates import BOMBS

ENDLESS = [
    *BOMBS,
    "{% set x = range(2000000000) %}",
    "{% for m in messages %}{% for n in messages %}{% for o in messages %}{{ n.content }}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{{ " + "(" * 15_000 + "1" + ")" * 15_000 + " }}",
    "x" * (2**16 + 1),
    "{{ unfinished",
]


def folder_with(folder: Path, template: str) -> Path:
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("template", ENDLESS, ids=lambda template: template[:40])
def test_a_template_that_takes_too_much_is_refused(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource_limits, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(resource_limits, "TEMPLATE_MEMORY_BYTES", 2**28)
    with pytest.raises(TemplateRefused, match=r"^it "):
        try_templates(folder_with(tmp_path, template))


def test_a_template_that_refuses_a_chat_is_accepted(tmp_path: Path) -> None:
    try_templates(folder_with(tmp_path, "{{ raise_exception('roles alternate') }}"))


def test_every_place_of_a_template_is_read(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny")
    (own,) = templates_of(tmp_path / "tiny")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "default", "template": "a"}, {"name": "b", "template": "b"}]}'
    )
    (tmp_path / "chat_template.json").write_text('{"chat_template": "c"}')
    folder_with(tmp_path, own)
    assert templates_of(tmp_path) == [own, "a", "b", "c"]


def test_the_program_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert template_trial.main(path) == 1
    assert capsys.readouterr().out == "The model's file is refused: it is cut off."
