"""Dataset statistics of files under a model's tokenizer. Free of the web framework: the worker
reads them, too.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.base.ids import new_id
from app.models import DatasetStatistics, File, Model, OperationStatus
from app.models.base import JsonObject
from falqon_core.contract.config import Recipe
from falqon_core.contract.inspection import OverlapCount
from falqon_core.contract.template_kwargs import write_template_kwargs
from falqon_core.estimate.long_text import EpochAmount, amount_with_overlap


class StatisticsKey(NamedTuple):
    """Key of statistics: a file and a model; with a validation file, also the overlap of both."""

    file_id: str
    model_id: str
    max_seq_length: int
    validation_file_id: str  # empty for none
    chat_template_kwargs: str = ""


def find(session: Session, key: StatisticsKey) -> DatasetStatistics | None:
    statement = select(DatasetStatistics).filter_by(**key._asdict())
    return session.scalars(statement).one_or_none()


def list_of_file(session: Session, file_id: str) -> list[DatasetStatistics]:
    statement = select(DatasetStatistics).where(DatasetStatistics.file_id == file_id)
    return list(session.scalars(statement.order_by(DatasetStatistics.id)))


def tokens_of(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, int]:
    """Return the tokens of one epoch, from the newest statistics of each file."""
    tokens = DatasetStatistics.result["tokens_per_epoch"].as_integer().label("tokens")
    statement = (
        select(DatasetStatistics.file_id, tokens)
        .join(File, File.id == DatasetStatistics.file_id)
        .where(
            File.project_id == project_id,
            DatasetStatistics.file_id.in_(file_ids),
            DatasetStatistics.status == OperationStatus.COMPLETED,
        )
        .order_by(DatasetStatistics.id)
    )
    return {row.file_id: row.tokens for row in session.execute(statement)}


def keep(session: Session, key: StatisticsKey) -> None:
    """Keep the model and the file from being deleted before the transaction ends."""
    for row, row_id in ((Model.id, key.model_id), (File.id, key.file_id)):
        session.execute(select(row).where(row == row_id).with_for_update(read=True, key_share=True))


def add(session: Session, project_id: str, key: StatisticsKey) -> None:
    """Add the operation unless another caller has just added the same.

    It replaces statistics with other variables of the chat template, once those have ended.
    """
    fields = key._asdict()
    kwargs = fields.pop("chat_template_kwargs")
    session.execute(
        delete(DatasetStatistics)
        .filter_by(**fields)
        .where(
            DatasetStatistics.chat_template_kwargs != kwargs,
            DatasetStatistics.status != OperationStatus.IN_PROGRESS,
        )
    )
    statistics = DatasetStatistics(
        id=new_id("stats-"),
        project_id=project_id,
        status=OperationStatus.IN_PROGRESS,
        **key._asdict(),
    )
    with suppress(IntegrityError), session.begin_nested():
        session.add(statistics)


def exact_amount(
    session: Session, file_id: str, model_id: str, recipe: Recipe
) -> EpochAmount | None:
    """Return what one epoch is as the model's tokenizer counts it, when statistics know it for the
    length, the overlap and the chat template of this recipe.
    """
    statement = select(DatasetStatistics.max_seq_length, DatasetStatistics.result).where(
        DatasetStatistics.file_id == file_id,
        DatasetStatistics.model_id == model_id,
        DatasetStatistics.chat_template_kwargs
        == write_template_kwargs(recipe.chat_template_kwargs),
        DatasetStatistics.status == OperationStatus.COMPLETED,
    )
    for counted_length, result in session.execute(statement):
        if result and (amount := _amount_of(result, counted_length, recipe)):
            return amount
    return None


def _amount_of(result: JsonObject, counted_length: int, recipe: Recipe) -> EpochAmount | None:
    """Return what statistics know. Those from before long texts were split, or overlaps counted,
    know nothing of these.
    """
    without_overlap = EpochAmount(int(result["sequences"]), int(result["tokens_per_epoch"]))
    if result["longest"] <= min(counted_length, recipe.max_seq_length):
        return without_overlap
    if counted_length != recipe.max_seq_length or "split" not in result:
        return None
    if not (recipe.text_overlap_tokens and result["split"]):
        return without_overlap
    counts = [OverlapCount.model_validate(count) for count in result.get("overlaps", ())]
    return amount_with_overlap(counts, recipe.text_overlap_tokens) if counts else None
