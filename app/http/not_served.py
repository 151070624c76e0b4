"""Addresses of OpenAI's API that are not served here, each with its replacement."""

ASK_CHAT = "ask /v1/chat/completions"
NOT_SERVED = {
    "conversations": "Conversations are not kept here; "
    "send previous_response_id to /v1/responses, or all messages to /v1/chat/completions.",
    "embeddings": "Embeddings are not served here: models here write text. Let the name stand for "
    "an embedding model of the upstream, or give the client the address of a server that has one.",
    "moderations": "Moderations are not served here; "
    f"{ASK_CHAT} of a model that judges text, or leave the check to another service.",
    "images": "Images are not served here: models here read and write text alone.",
    "videos": "Videos are not served here: models here read and write text alone.",
    "audio": "Audio is not served here: models here read and write text alone.",
    "realtime": f"Realtime sessions are not served here; {ASK_CHAT} with stream.",
    "assistants": f"Assistants are not served here; {ASK_CHAT} with messages and tools.",
    "threads": f"Threads are not kept here; {ASK_CHAT} with all messages of the conversation.",
    "vector_stores": (
        "Vector stores are not served here; search your documents yourself and write the "
        "results into the messages."
    ),
}


def advice_for(path: str) -> str | None:
    """Return the replacement of a known address; None for an unknown one."""
    _, _, rest = path.partition("/v1/")
    return NOT_SERVED.get(rest.partition("/")[0]) if path.startswith("/v1/") else None
