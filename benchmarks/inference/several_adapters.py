"""llama.cpp with several adapters in one process, as the workers do not start it: GGUF, number of
parallel answers, threads, context of one answer, adapters -> its address on stdout.

    python -m benchmarks.inference.several_adapters GGUF ANSWERS THREADS CONTEXT ADAPTER...

A question says in `lora` what scale each adapter has for it.
"""

import os
import signal
import sys

import xllamacpp

from worker.inference.llama_cpp import STEP_TOKENS


def main() -> None:
    gguf, num_answers, num_threads, context, *adapters = sys.argv[1:]
    stdout = os.dup(1)
    os.dup2(2, 1)  # llama.cpp logs there
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.lora_adapters = [_adapter(path) for path in adapters]
    parameters.lora_init_without_apply = True
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = int(num_answers)
    parameters.n_ctx = int(context) * int(num_answers)
    parameters.n_batch = STEP_TOKENS
    parameters.kv_unified = False
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    parameters.fit_params = False
    parameters.ui = False
    for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
        cpu.n_threads = int(num_threads)
        cpu.poll = 0
    server = xllamacpp.Server(parameters)
    os.write(stdout, f"{server.listening_address}\n".encode())
    os.close(stdout)
    signal.pause()


def _adapter(path: str) -> xllamacpp.CommonAdapterLoraInfo:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


if __name__ == "__main__":
    main()
