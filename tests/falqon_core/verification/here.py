"""What certifies, in the process that trains and has torch: a process of its own takes five seconds
of CPU time to load it. `test_verification.py` starts that one.
"""

import subprocess
from io import StringIO
from types import SimpleNamespace

from falqon_core.verification import process


class Here:
    """As much of `subprocess.Popen` as `VerifierProcess` asks for."""

    returncode = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.stdin = StringIO()

    def communicate(self) -> tuple[str, None]:
        requests, self.stdin = StringIO(self.stdin.getvalue()), StringIO()
        answers = StringIO()
        if requests.getvalue():
            process.main(requests, answers)
        return answers.getvalue(), None

    def kill(self) -> None:
        self.stdin = StringIO()


SUBPROCESS = SimpleNamespace(Popen=Here, PIPE=subprocess.PIPE)
NAME = "falqon_core.verification.client.subprocess"
