"""Files of preference records."""

import json
from collections.abc import Iterable
from pathlib import Path


def write_preferences(path: Path, records: Iterable[tuple[list[dict[str, str]], str, str]]) -> Path:
    with path.open("w") as file:
        for messages, good, bad in records:
            outputs = ([{"role": "assistant", "content": answer}] for answer in (good, bad))
            record = {"input": {"messages": messages}} | dict(
                zip(("preferred_output", "non_preferred_output"), outputs, strict=True)
            )
            file.write(json.dumps(record) + "\n")
    return path
