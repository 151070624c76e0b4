"""An S3 server as a process of its own: moto's, which speaks the protocol over HTTP and keeps
objects in memory.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.support.service import free_port
from tests.support.waiting import wait_for

START_SECONDS = 60


class ObjectStore:
    """`environment` and `url` are what an operator would set for the service. `prefix` begins its
    command line.
    """

    def __init__(
        self, bucket: str = "models", *, address: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        port = free_port()
        self.endpoint = f"http://{address}:{port}"
        self.url = f"s3://{bucket}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "operator",
            "AWS_SECRET_ACCESS_KEY": "of-the-bucket",
        }
        self._log = Path(tempfile.mkstemp(prefix="s3-")[1])
        command = [
            *prefix,
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "moto.server",
            "--host",
            address,
            "--port",
            str(port),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._answers, START_SECONDS, "the S3 server answers")
        except BaseException:
            self.close()
            raise
        httpx.put(f"{self.endpoint}/{bucket}").raise_for_status()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the S3 server has ended"
        try:
            return httpx.get(self.endpoint).is_success
        except httpx.TransportError:
            return False

    def requests(self) -> list[str]:
        """Method and path of each, from its log."""
        return re.findall(r"((?:GET|HEAD|PUT|POST|DELETE) \S+) HTTP", self._log.read_text())

    def fall_silent(self) -> None:
        """Connections are still taken, by the kernel; nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.unlink()
