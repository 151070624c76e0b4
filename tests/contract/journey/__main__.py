import asyncio
import json
import os
import sys

import openai

from tests.contract.journey import errors, files, jobs, models, strictness, uploads, webhooks
from tests.contract.journey.traveller import Traveller, done, offered


async def main() -> None:
    """What the traveller takes along stands in JOURNEY; what came of it is printed."""
    options = json.loads(os.environ["JOURNEY"])
    kind = openai.AsyncOpenAI if options["asynchronous"] else openai.OpenAI
    # the one line; the key comes from OPENAI_API_KEY
    client = kind(base_url=options.pop("base_url"))
    traveller = Traveller(client, **options)
    await files.journey(traveller)
    await uploads.journey(traveller)
    job = await jobs.journey(traveller)
    await errors.journey(traveller)
    if hasattr(client, "webhooks"):
        await webhooks.journey(traveller)
    await strictness.journey(traveller, job)
    await models.journey(traveller, job)
    never_called = sorted(set(offered(client)) - traveller.called)
    await done(client.close())
    json.dump(
        {
            "version": openai.__version__,
            "called": sorted(traveller.called),
            "never_called": never_called,
        },
        sys.stdout,
    )


asyncio.run(main())
