"""llama.cpp in a process of its own, because it logs to whatever stdout it finds: GGUF, messages as
JSON, number of tokens, an adapter or none -> answer.
"""

import json
import os
import sys

import xllamacpp

real = os.dup(1)
os.dup2(2, 1)
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 512
parameters.n_parallel = 1
parameters.warmup = False
parameters.cpuparams.n_threads = 1
if len(sys.argv) > 4:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = sys.argv[4], 1.0
    parameters.lora_adapters = [adapter]
server = xllamacpp.Server(parameters)
answer = server.handle_chat_completions(
    {"messages": json.loads(sys.argv[2]), "max_tokens": int(sys.argv[3]), "temperature": 0}
)
answer = json.loads(answer) if isinstance(answer, str) else answer
os.write(real, json.dumps(answer["choices"][0]["message"]["content"]).encode())
os._exit(0)
