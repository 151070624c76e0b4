"""llama.cpp in a process of its own, because it logs to whatever stdout it finds: GGUF, messages as
JSON, number of tokens, adapters -> the answers with each, or the one without any.
"""

import json
import os
import sys

import xllamacpp


def answer(adapter: str | None) -> str:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = adapter, 1.0
        parameters.lora_adapters = [info]
    question = {"messages": json.loads(sys.argv[2]), "max_tokens": int(sys.argv[3])}
    server = xllamacpp.Server(parameters)
    answer = server.handle_chat_completions(question | {"temperature": 0})
    answer = json.loads(answer) if isinstance(answer, str) else answer
    return str(answer["choices"][0]["message"]["content"])


real = os.dup(1)
os.dup2(2, 1)
answers = list(map(answer, sys.argv[4:] or [None]))
os.write(real, json.dumps(answers).encode())
os._exit(0)
