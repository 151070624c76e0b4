import pytest

from app.catalogue.naming import MAX_HUB_NAME, end_of_id, hub_id


def test_forms_of_long_names_are_told_apart() -> None:
    """A name that is too long loses letters of base and suffix, not those of the job."""
    ids = [f"ft:{'a' * 80}:project:{'s' * 60}:{job}:lora" for job in ("0011aabb", "2233ccdd")]
    names = list(map(hub_id, ids))
    assert [name[-14:] for name in names] == ["-0011aabb-lora", "-2233ccdd-lora"]
    assert {len(name.partition("/")[2]) for name in names} == {MAX_HUB_NAME}
    assert hub_id("ft:tiny:project:first:0011aabb:lora") == "ft/tiny-first-0011aabb-lora"


@pytest.mark.parametrize(
    ("model_id", "end"),
    [
        ("ft:tiny:acme::0011aabb", ":0011aabb"),
        ("ft:tiny:acme::0011aabb:lora", ":0011aabb:lora"),
        ("ft:tiny:acme:a-b:0011aabb:gguf_q4_0", ":0011aabb:gguf_q4_0"),
        ("ft:tiny:acme:a:0011aabb:ckpt-step-10", ":0011aabb:ckpt-step-10"),
        ("ft:tiny:acme:a:0011aabb:ckpt-step-10:lora", ":0011aabb:ckpt-step-10:lora"),
        ("ft:tiny:acme:ckpt-step-10:0011aabb", ":0011aabb"),
        ("ft:tiny:acme:lora:0011aabb:lora", ":0011aabb:lora"),
        ("ft:tiny:acme::0011aabb:a form of later", ":a form of later"),
        ("ft:mine", ":mine"),
        ("ft:tiny:acme:a:", ":"),
    ],
)
def test_a_hub_id_tells_the_end_of_its_model_s_id(model_id: str, end: str) -> None:
    assert model_id.endswith(end)
    assert end_of_id(hub_id(model_id)) == end


def test_an_endless_hub_id_is_read_in_time() -> None:
    for text in ("a" * 100_000, "a-" * 50_000, "-ckpt-step-1" * 10_000, "-1" * 50_000 + "\n"):
        assert end_of_id(f"ft/{text}").startswith(":")
