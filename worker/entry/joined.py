"""`falqon worker --join URL`: execute jobs until told to stop."""

import argparse
import os
import socket
from dataclasses import asdict
from datetime import timedelta

import structlog

from app.base import logging, tracing
from app.base.processes.stop_signals import set_at_stop_signals
from app.base.settings import Settings, load_settings
from app.base.storage import StorageUnavailable
from worker.attempt.supervisor import Supervisor
from worker.entry import process
from worker.gateway import ServiceRefused, ServiceUnavailable
from worker.joined.gateway import JoinedGateway
from worker.machine import metrics, pulse, scratch
from worker.machine.gpu import detect

log = structlog.get_logger()


def main() -> int:
    parser = argparse.ArgumentParser(prog="falqon worker --join")
    parser.add_argument("url")
    url: str = parser.parse_args().url
    settings = load_settings()
    logging.configure(logging.secrets_of(settings, os.environ))
    tracing.configure(settings, "worker")
    set_at_stop_signals(process.shutting_down)
    gateway = JoinedGateway(url, os.environ["FALQON_WORKER_TOKEN"], socket.gethostname())
    scratch.sweep_all(settings.work_dir)
    pulse.show_in(settings.alive_file)
    metrics.serve(settings)
    try:
        _work(gateway, settings)
    except ServiceRefused as error:
        log.error("the service refuses this worker", status=error.status, reason=str(error))
        return 1
    return 0


def _work(gateway: JoinedGateway, settings: Settings) -> None:
    """Execute jobs one after the other, with the service's durations. Raises `ServiceRefused`."""
    shutting_down = process.shutting_down
    supervisor = None
    while not shutting_down.is_set():
        try:
            if supervisor is None:
                settings = _with_terms(gateway, settings)
                supervisor = Supervisor(settings, gateway, detect(settings), shutting_down)
                log.info("worker joined", owner=gateway.owner)
            has_worked = supervisor.execute_next()
        except (ServiceUnavailable, StorageUnavailable) as error:
            log.warning("service unavailable", error=str(error))
            has_worked = False
        pulse.beat()
        if not has_worked:
            shutting_down.wait(settings.poll.total_seconds())


def _with_terms(gateway: JoinedGateway, settings: Settings) -> Settings:
    terms = gateway.read_terms()
    seconds = {name: timedelta(seconds=value) for name, value in asdict(terms).items()}
    return settings.model_copy(update=seconds)


if __name__ == "__main__":
    raise SystemExit(main())
