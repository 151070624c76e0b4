"""llama.cpp in a process of its own, because it logs to whatever stdout it finds. Stdin has GGUF,
questions, number of tokens, margin and adapters; stdout gets, for each adapter, or for the model
without any, the number of the first question that it answers by that margin, and the answer.
"""

import json
import os
import sys
from typing import Any

import xllamacpp

gguf, questions, num_tokens, min_margin, adapters = json.load(sys.stdin)


def answer(adapter: str | None) -> tuple[int, str] | None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = adapter, 1.0
        parameters.lora_adapters = [info]
    server = xllamacpp.Server(parameters)
    for number, messages in enumerate(questions):
        choice = ask(server, messages)
        if margin(choice) >= min_margin:
            return number, str(choice["message"]["content"])
    return None


def ask(server: xllamacpp.Server, messages: Any) -> Any:
    question = {"messages": messages, "max_tokens": num_tokens, "temperature": 0}
    answer = server.handle_chat_completions(question | {"logprobs": True, "top_logprobs": 2})
    answer = json.loads(answer) if isinstance(answer, str) else answer
    return answer["choices"][0]


def margin(choice: Any) -> float:
    """Return by how much the second best token is behind the best where it is closest."""
    best = [token["top_logprobs"] for token in choice["logprobs"]["content"]]
    return min((first["logprob"] - second["logprob"] for first, second in best), default=0.0)


real = os.dup(1)
os.dup2(2, 1)
answers = list(map(answer, adapters or [None]))
os.write(real, json.dumps(answers).encode())
os._exit(0)
