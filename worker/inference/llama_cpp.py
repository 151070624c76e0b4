"""llama.cpp's server as a program of its own: GGUF, name of the model -> its address on stdout,
then answers until it is killed. `FALQON_ENGINE_TOKEN` is what it asks callers for.
"""

import os
import resource
import signal
import sys
import time
from argparse import ArgumentParser

TOKEN_VARIABLE = "FALQON_ENGINE_TOKEN"
PARALLEL_ANSWERS = 4
ADAPTER_REFUSAL = "failed to apply lora adapter: "  # In llama.cpp's log, before the reason.
LOG_SECONDS = 0.2  # A thread writes llama.cpp's log, which says why; to exit would end it before.
STEP_TOKENS = 512  # Prompt tokens a step; the engine serves other requests between two steps.


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("gguf")
    parser.add_argument("--adapter", help="GGUF of an adapter that is put on it")
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens, of one answer")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True, help="beyond them it ends")
    args = parser.parse_args()
    limit_memory(args.memory_bytes)
    # OpenMP's threads read it once, at import. Those that spin at a barrier take the processor from
    # other engines.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError:
        sys.exit("xllamacpp is not installed: pip install '.[worker]'")
    stdout = os.dup(1)
    os.dup2(2, 1)  # llama.cpp logs there
    parameters = xllamacpp.CommonParams()
    parameters.model.path = args.gguf
    if args.adapter:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = args.adapter, 1.0
        parameters.lora_adapters = [adapter]
    parameters.model_alias = {args.name}
    parameters.hostnames = [args.host]
    parameters.port = 0
    parameters.api_keys = [os.environ.pop(TOKEN_VARIABLE)]
    # Each answer has a context of its own, so that no other one can fill it.
    parameters.n_ctx = args.context * PARALLEL_ANSWERS
    parameters.n_batch = STEP_TOKENS
    parameters.n_parallel = PARALLEL_ANSWERS
    parameters.kv_unified = False
    # Slots are every project's, so that a question says itself where it may reuse a prompt.
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0  # The default keeps up to 8 GiB of earlier prompts.
    parameters.fit_params = False
    parameters.ui = False
    parameters.endpoint_metrics = True
    for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
        cpu.n_threads = args.threads
        cpu.poll = 0  # Spinning threads would take the processor from a training beside them.
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        time.sleep(LOG_SECONDS)
        sys.exit(str(error))
    os.write(stdout, f"{server.listening_address}\n".encode())
    os.close(stdout)
    signal.pause()


def limit_memory(num_bytes: int) -> None:
    """Have the kernel refuse this process more; weights that are mapped from their file are free.
    The limit is Linux's.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))


if __name__ == "__main__":
    main()
