"""Bytes that no row names and that nobody announced: of a worker that was killed while it uploaded, or of a row that went long ago.

Looking through the whole storage finds them, and makes orphans of them, which are looked at once more before they go. Young ones are
left alone: somebody may be writing them, and their row comes last.
"""

from datetime import timedelta

import structlog
from sqlalchemy import delete, select

from app import orphans
from app.database import Database, now_plus
from app.models import DeliveryStatus, Orphan, WebhookDelivery
from app.storage import Storage, keys

AGE = timedelta(hours=22)  # with the hour until the next look, and the one that an orphan waits, a day
DELIVERIES_KEPT = timedelta(days=30)
DELETED_AT_ONCE = 1000
log = structlog.get_logger()


def collect(database: Database, storage: Storage) -> int:
    """How many objects became orphans. Several may look at once."""
    count = 0
    storage.remove_unfinished(AGE)
    for prefix in keys.ROOTS:
        for batch in storage.old_keys(prefix, AGE):
            with database.read() as session:
                announced = session.scalars(select(Orphan.storage_key).where(Orphan.storage_key.in_(batch)))
                known = orphans.named(session, batch) | set(announced)
            if nameless := [key for key in batch if key not in known]:
                with database.transaction() as session:
                    orphans.abandon(session, nameless)
                log.info("objects without a row", count=len(nameless), first=nameless[0])
                count += len(nameless)
    return count


def forget_deliveries(database: Database) -> int:
    """Webhook deliveries that ended long ago, a few at a time; how many."""
    ended = (WebhookDelivery.status != DeliveryStatus.PENDING, WebhookDelivery.created_at < now_plus(-DELIVERIES_KEPT.total_seconds()))
    count = 0
    while True:
        with database.transaction() as session:
            old = session.scalars(select(WebhookDelivery.id).where(*ended).limit(DELETED_AT_ONCE)).all()
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)), execution_options={"synchronize_session": False})
        count += len(old)
        if len(old) < DELETED_AT_ONCE:
            return count
