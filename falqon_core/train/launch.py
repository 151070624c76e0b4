"""Several trainer processes on this machine, one a device, under the elastic agent of torch, which
is what torchrun starts.

torchrun as a command turns every failing exit code of a rank into 1, gives ranks 30 seconds after a
SIGTERM, and starts each in a session of its own, where no signal to our process group arrives.
Hence the agent is called from here: signals are passed on to all ranks, which have the time that
our parent gives us, and the exit code is theirs.
"""

import os
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from falqon_core.contract.messages import ExitCode

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server import SimpleElasticAgent

LOCAL_ADDRESS = "127.0.0.1"
STDOUT = 1
STDERR = 2
POLL_SECONDS = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Exit codes with which all ranks end together; they come before the code of a rank that lost
# another.
COMMON_EXIT_CODES = frozenset(ExitCode) - {ExitCode.DONE, ExitCode.INTERNAL}


def run_ranks(arguments: Sequence[str], num_processes: int, message_fd: int | None) -> int:
    """Run `python -m falqon_core ARGUMENTS` once a device, and return the exit code of the ranks:
    negative where a signal ended one. Messages of the first rank go to `message_fd`.
    """
    relay = _SignalRelay()  # Signals are relayed from before torch is loaded.
    command = ["-m", "falqon_core", *arguments]
    if message_fd is not None:
        if message_fd != STDOUT:
            # A rank inherits its standard streams only.
            os.dup2(message_fd, STDOUT)
            os.close(message_fd)
        command += ["--message-fd", str(STDOUT)]
    agent = relay.agent = _create_agent(command, num_processes)
    result = agent.run()
    return _common_code([failure.exitcode for failure in result.failures.values()])


def end_like(code: int) -> None:
    """End this process as `code` says: by the same signal where it is negative."""
    if code < 0:
        with suppress(OSError):  # SIGKILL cannot be handled.
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def take_stdout() -> int:
    """Return a new descriptor of stdout's file; stdout itself becomes stderr, so that nothing else
    can come between the messages.
    """
    descriptor = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    return descriptor


class _SignalRelay:
    """A handler that passes stop signals, and the request for a stack trace, on to all ranks.
    Before there are ranks a stop ends it.
    """

    def __init__(self) -> None:
        self.agent: SimpleElasticAgent | None = None
        for number in (*STOP_SIGNALS, signal.SIGUSR1):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        workers = self.agent.get_worker_group().workers if self.agent else []
        process_ids = [worker.id for worker in workers if worker.id is not None]
        if not process_ids and number in STOP_SIGNALS:
            os._exit(ExitCode.STOPPED)
        for process_id in process_ids:
            with suppress(ProcessLookupError):
                os.kill(process_id, number)


def _create_agent(command: Sequence[str], num_processes: int) -> "SimpleElasticAgent":
    from torch.distributed.elastic.agent.server import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    # The agent would handle the other signals as well.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rendezvous = RendezvousParameters(
        backend="c10d",
        endpoint=f"{LOCAL_ADDRESS}:0",
        run_id=str(os.getpid()),
        min_nodes=1,
        max_nodes=1,
        local_addr=LOCAL_ADDRESS,
        is_host=True,
    )
    spec = WorkerSpec(
        role="trainer",
        local_world_size=num_processes,
        rdzv_handler=registry.get_rendezvous_handler(rendezvous),
        entrypoint=sys.executable,
        args=tuple(command),
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        local_addr=LOCAL_ADDRESS,
    )
    return LocalElasticAgent(spec, logs_specs=DefaultLogsSpecs(log_dir=os.devnull))


def _common_code(codes: Collection[int]) -> int:
    """Return the most telling code: the common one of all, then the signal that ended one."""
    agreed = [code for code in codes if code in COMMON_EXIT_CODES]
    killed = [code for code in codes if code < 0]
    return next(iter([*agreed, *killed, *codes]), ExitCode.DONE)
