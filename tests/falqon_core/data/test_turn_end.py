import time

from falqon_core.data.turn_end import ControlTokens, end_token


def control(*texts: str) -> ControlTokens:
    return ControlTokens(frozenset(texts), tuple(sorted(set(map(len, texts)))))


def test_a_turn_ends_with_a_whole_control_token_or_none() -> None:
    tokens = control("</s>", "<|im_end|>")
    assert end_token("Seven.<|im_end|>", tokens) == "<|im_end|>"
    assert end_token("<|im_end|>", tokens) == "<|im_end|>"
    assert end_token("Seven.<|im_end|> ", tokens) == ""
    assert end_token("im_end|>", tokens) == ""
    assert end_token("", tokens) == ""
    assert end_token("Seven.</s>", control()) == ""
    assert end_token("<a><b>", control("<b>", "<a><b>")) == "<a><b>"


def test_the_end_is_found_among_thousands_of_tokens_in_one_step() -> None:
    """A chat asks several times a turn; one token after the other this took 0.8 s here."""
    tokens = control(*(f"<SPECIAL_{index}>" for index in range(6000)))
    start = time.thread_time()
    for _ in range(2000):
        assert end_token("It sells lamps.<SPECIAL_5999>", tokens) == "<SPECIAL_5999>"
    assert time.thread_time() - start < 0.2
