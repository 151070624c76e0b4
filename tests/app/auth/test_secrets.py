from app.auth import secrets


def test_keys_have_a_shape_that_scanners_know_and_typos_break() -> None:
    public, secret = secrets.generate()
    assert secrets.KEY_PATTERN.fullmatch(secret)
    assert secret.startswith(f"ft_live_{public}_")
    assert secrets.may_be_a_key(secret)
    for position in range(len("ft_live_"), len(secret)):
        other = "a" if secret[position] != "a" else "b"
        assert not secrets.may_be_a_key(secret[:position] + other + secret[position + 1 :])
