from app.catalogue.naming import MAX_HUB_NAME, hub_id


def test_forms_of_long_names_are_told_apart() -> None:
    """A name that is too long loses letters of base and suffix, not those of the job."""
    ids = [f"ft:{'a' * 80}:project:{'s' * 60}:{job}:lora" for job in ("0011aabb", "2233ccdd")]
    names = list(map(hub_id, ids))
    assert [name[-14:] for name in names] == ["-0011aabb-lora", "-2233ccdd-lora"]
    assert {len(name.partition("/")[2]) for name in names} == {MAX_HUB_NAME}
    assert hub_id("ft:tiny:project:first:0011aabb:lora") == "ft/tiny-first-0011aabb-lora"
