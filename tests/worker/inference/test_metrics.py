"""What engines tell of themselves, in the words of each."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worker.inference.metrics import EngineMetrics
from worker.machine.engine_samples import MAX_BYTES

LLAMA_CPP = """\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
llamacpp:predicted_tokens_seconds 41.5
"""
# As vLLM writes them: more than 64 KiB, with whatever the model is called.
VLLM = (
    """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="my } model"} 1.0
vllm:num_requests_running{engine="1",model_name="my } model"} 2.0
"""
    + 'vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.5"} NaN\n' * 3_000
    + """\
vllm:generation_tokens_total{engine="0",model_name="my } model"} 100.0
vllm:generation_tokens_total{engine="1",model_name="my } model"} 1e3
vllm:generation_tokens_created{engine="0",model_name="my } model"} 1.7e+09
"""
)


class Answers:
    """A server whose /metrics is `text`."""

    text = ""

    def __init__(self) -> None:
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = answers.text.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers()
    thread = threading.Thread(target=answers.server.serve_forever)
    thread.start()
    yield answers
    answers.server.shutdown()
    thread.join()
    answers.server.server_close()


@pytest.fixture
def metrics(answers: Answers) -> EngineMetrics:
    return EngineMetrics(os.getpgrp(), answers.address, "token")


def test_llama_cpp_tells_both(answers: Answers, metrics: EngineMetrics) -> None:
    answers.text = LLAMA_CPP
    figures = metrics.read()
    assert (figures.num_requests, figures.tokens_per_second) == (2, 41.5)
    assert figures.memory_bytes is not None
    assert figures.memory_bytes > 2**20


def test_engines_of_vllm_are_added_up(answers: Answers, metrics: EngineMetrics) -> None:
    answers.text = VLLM
    figures = metrics.read()
    assert (figures.num_requests, figures.tokens_per_second) == (3, None), (
        "a rate takes two readings"
    )
    time.sleep(0.1)
    answers.text = VLLM.replace(" 1e3", " 2e3")
    read_at = time.monotonic()
    speed = metrics.read().tokens_per_second
    assert speed is not None
    assert 1_000 / (time.monotonic() - read_at + 5) < speed <= 1_000 / 0.1
    figures = metrics.read()
    assert (figures.num_requests, figures.tokens_per_second) == (3, 0.0)


def test_a_line_that_is_cut_is_not_read(answers: Answers, metrics: EngineMetrics) -> None:
    filler = "# filler\n" * (MAX_BYTES // 9)
    answers.text = filler + "llamacpp:requests_processing 123456789\n"
    assert metrics.read().num_requests is None


def test_an_engine_that_is_gone_tells_nothing(metrics: EngineMetrics, answers: Answers) -> None:
    answers.server.server_close()
    figures = metrics.read()
    assert (figures.num_requests, figures.tokens_per_second) == (None, None)
