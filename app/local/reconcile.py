"""`falqon reconcile`: the background work of an API process, for installations whose API may stand
still.
"""

import os
import signal

import typer


def reconcile() -> None:
    """Do the background work of an API without one: requeue jobs of silent workers, notify, send
    webhooks, remove what has expired. Any number may run, beside APIs, too.
    """
    import structlog

    from app.base import logging
    from app.base.database import Database
    from app.base.metrics_port import metrics_port
    from app.base.processes.stop_signals import STOP_SIGNALS
    from app.base.settings import load_settings
    from app.base.storage import Storage
    from app.garbage import installation
    from app.local.commands import refuse, refusing_what_is_unusable
    from app.notifier.broker import Notifier
    from app.reconciler import Reconciler
    from app.webhooks.dispatcher import Dispatcher

    settings = load_settings()
    logging.configure(logging.secrets_of(settings, os.environ))
    # Waited for, not handled: a handler that sets an event can meet the wait for it half done.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    database = Database(settings.resolved_database_url)
    storage = Storage(settings.resolved_storage_url)
    try:
        with refusing_what_is_unusable(settings):
            installation.refuse_mismatch(database, storage)
        reconciler = Reconciler(database, storage, Notifier(settings), settings)
        dispatcher = Dispatcher(database, settings)
        with metrics_port(settings.metrics_port, settings.metrics_host):
            reconciler.start()
            dispatcher.start()
            structlog.get_logger().info("reconciling")
            signal.sigwait(STOP_SIGNALS)
            dispatcher.stop()
            reconciler.stop()
    except installation.Mismatch as error:
        refuse(error)
    except OSError as error:
        refuse(f"FALQON_METRICS_PORT: {error.strerror or error}; choose another.")
    finally:
        database.dispose()
    typer.echo("The background work has ended.", err=True)
