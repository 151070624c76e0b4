import json

from tests.app.client.conftest import Falqon


def test_a_name_is_set_split_put_back_and_deleted(falqon: Falqon) -> None:
    model = json.loads(falqon("models", "list", "--json").stdout)["data"][0]["id"]
    assert falqon("aliases", "set", "gpt-4o", model).stdout == (
        f"gpt-4o stands for {model} (version 1).\n"
    )
    assert "gpt-4o" in falqon("models", "list").stdout
    split = falqon("aliases", "set", "gpt-4o", f"{model}=3", "--json")
    assert json.loads(split.stdout)["models"] == [{"model": model, "weight": 3}]
    assert "version 3" in falqon("aliases", "rollback", "gpt-4o").stdout
    assert "version 4" in falqon("aliases", "rollback", "gpt-4o", "--version", "2").stdout
    assert model in falqon("aliases", "versions", "gpt-4o").stdout
    assert "No request has named it" in falqon("aliases", "usage", "gpt-4o").stdout
    assert falqon("aliases", "delete", "gpt-4o").stdout == "gpt-4o is deleted.\n"
    assert "No name stands for a model" in falqon("aliases", "list").stdout


def test_what_stands_for_nothing_is_refused(falqon: Falqon) -> None:
    unknown = falqon("aliases", "set", "gpt-4o", "none")
    assert unknown.exit_code == 1
    assert "there is no 'none' among the models here" in unknown.stderr
    weight = falqon("aliases", "set", "gpt-4o", "a=x")
    assert weight.exit_code == 2
    assert "write a whole number after the =, such as a=5" in weight.stderr
