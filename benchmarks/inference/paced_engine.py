"""An engine without a model: each stream gets a token at a steady pace, as many as it asks for.

    python -m benchmarks.inference.paced_engine TOKENS_PER_SECOND

It writes its address to stdout. What it says is made once and is as long as an engine's chunks.
"""

import asyncio
import json
import sys
from functools import partial

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = {
    "choices": [{"finish_reason": None, "index": 0, "delta": {"content": " token"}}],
    "created": 1_800_000_000,
    "id": "chatcmpl-0123456789abcdef0123456789abcdef",
    "model": "falqon-tiny",
    "system_fingerprint": "b0-unknown",
    "object": "chat.completion.chunk",
}
LENGTH = b"content-length:"


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


TOKEN = _chunk(b"data: " + json.dumps(CHUNK, separators=(",", ":")).encode() + b"\n\n")
END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def main() -> None:
    asyncio.run(_serve(float(sys.argv[1])))


async def _serve(tokens_per_second: float) -> None:
    answer = partial(_answer, tokens_per_second)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def _answer(
    tokens_per_second: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer what comes on one connection, until the client closes it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head[head.index(LENGTH) + len(LENGTH) :].split(b"\r\n", 1)[0])
            question = json.loads(await reader.readexactly(length))
            await _speak(writer, question["max_tokens"], tokens_per_second)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _speak(writer: asyncio.StreamWriter, num_tokens: int, tokens_per_second: float) -> None:
    loop = asyncio.get_running_loop()
    writer.write(HEAD)
    started = loop.time()
    for number in range(num_tokens):
        await asyncio.sleep(started + number / tokens_per_second - loop.time())
        writer.write(TOKEN)
        await writer.drain()
    writer.write(END)
    await writer.drain()


if __name__ == "__main__":
    main()
