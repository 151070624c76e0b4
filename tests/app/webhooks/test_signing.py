import time

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from app.webhooks import signing

CLIENT = OpenAI(api_key="x", base_url="http://127.0.0.1:1")
BODY = b'{"id":"evt_1"}'


def headers(*secrets: str) -> dict[str, str]:
    return signing.headers(secrets, "evt_1", int(time.time()), BODY)


def test_a_secret_belongs_to_one_endpoint_one_generation_and_one_service() -> None:
    secret = signing.derive("service", "whe_a", 1)
    assert secret == signing.derive("service", "whe_a", 1)
    others = {
        signing.derive("service", "whe_a", 2),
        signing.derive("service", "whe_b", 1),
        signing.derive("other", "whe_a", 1),
    }
    assert secret not in others
    assert len(others) == 3
    assert secret.startswith("whsec_")
    assert signing.hint(secret) == "whsec_..." + secret[-5:-1]


def test_the_official_client_accepts_each_of_two_secrets_and_no_third() -> None:
    new, old, wrong = (signing.derive("service", "whe_a", generation) for generation in (2, 1, 3))
    for secret in (new, old):
        CLIENT.webhooks.verify_signature(BODY, headers(new, old), secret=secret)
    for refused in (wrong, old):
        with pytest.raises(InvalidWebhookSignatureError):
            CLIENT.webhooks.verify_signature(BODY, headers(new), secret=refused)
    with pytest.raises(InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(BODY + b" ", headers(new), secret=new)
