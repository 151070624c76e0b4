import asyncio
import json
from typing import Any

import openai

from tests.contract.journey.files import QUICK, uploaded
from tests.contract.journey.traveller import (
    WAIT_SECONDS,
    Traveller,
    done,
    every,
    ids,
    refused,
    same,
)
from tests.support.receiver import Received, Receiver, receiving

EVENTS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


async def journey(traveller: Traveller) -> None:
    webhooks = traveller.client.webhooks
    with receiving() as receiver:
        managed = hasattr(webhooks, "create")
        endpoint = (
            await _managed(traveller, receiver)
            if managed
            else await _made_by_hand(traveller, receiver)
        )
        training = await uploaded(traveller, QUICK)
        job = await done(
            traveller.client.fine_tuning.jobs.create(model=traveller.model, training_file=training)
        )
        await done(traveller.client.fine_tuning.jobs.cancel(job.id))
        _, headers, body = await _what_came(receiver, job.id)
        event = await done(webhooks.unwrap(body, headers, secret=endpoint.signing_secret))
        same(
            (event.object, event.data.id, event.type),
            ("event", job.id, "fine_tuning.job.cancelled"),
        )
        await done(webhooks.verify_signature(body, headers, secret=endpoint.signing_secret))
        for forged in (body + b" ", body.replace(b"cancelled", b"succeeded")):
            try:
                await done(webhooks.unwrap(forged, headers, secret=endpoint.signing_secret))
            except openai.InvalidWebhookSignatureError:
                continue
            raise AssertionError("a changed body passed for ours")
        if managed:
            await _gone(traveller, endpoint)


async def _made_by_hand(traveller: Traveller, receiver: Receiver) -> Any:
    """Releases that can read webhooks and not manage them."""
    return await done(
        traveller.client.post(
            "/webhook_endpoints", body={"url": receiver.url}, cast_to=openai.BaseModel
        )
    )


async def _managed(traveller: Traveller, receiver: Receiver) -> Any:
    webhooks = traveller.client.webhooks
    same((await done(webhooks.event_types.list())).data[:3], EVENTS)
    other = await done(webhooks.create(name="theirs", url=receiver.url, event_types=EVENTS[:1]))
    endpoint = await done(webhooks.create(name="ours", url=receiver.url, event_types=EVENTS))
    same(
        (endpoint.object, endpoint.url, endpoint.event_types),
        ("webhook_endpoint", receiver.url, EVENTS),
    )
    same((await done(webhooks.retrieve(endpoint.id))).name, "ours")
    same(ids(await every(webhooks.list(limit=1))), [endpoint.id, other.id])
    same((await done(webhooks.update(other.id, event_types=EVENTS[1:2]))).event_types, EVENTS[1:2])
    same((await done(webhooks.delete(other.id))).deleted, True)
    await refused(
        openai.NotFoundError, "not_found", webhooks.retrieve, other.id, param="webhook_endpoint_id"
    )
    sent = await done(webhooks.test(endpoint.id, event_type=EVENTS[0]))
    same(sent.status_code, 204)
    ((_, headers, body),) = receiver.received
    same(
        (await done(webhooks.unwrap(body, headers, secret=endpoint.signing_secret))).type, EVENTS[0]
    )
    rotated = await done(webhooks.rotate_secret(endpoint.id))
    assert rotated.signing_secret != endpoint.signing_secret, "a new secret"
    return rotated


async def _gone(traveller: Traveller, endpoint: Any) -> None:
    same((await done(traveller.client.webhooks.delete(endpoint.id))).deleted, True)
    same(await every(traveller.client.webhooks.list()), [])


async def _what_came(receiver: Receiver, job_id: str) -> Received:
    for _ in range(WAIT_SECONDS * 10):
        for received in receiver.received:
            if json.loads(received.body)["data"]["id"] == job_id:
                return received
        await asyncio.sleep(0.1)
    raise AssertionError(f"no webhook came for {job_id}")
