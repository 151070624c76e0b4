"""Counts of a training's data besides records and tokens, for checkpoints and the card."""

from pydantic import BaseModel, ConfigDict

from falqon_core.data.dataset import Dataset


class DataSummary(BaseModel):
    """`longest`: the tokens of the longest sequence, after cutting; of a pair both halves count.
    `num_examples`: records, and the sequences that long texts become; unknown to trainings that
    began when texts were cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    longest: int
    num_examples: int | None = None
    num_truncated: int
    num_left_out: int
    num_validation_records: int


def summarize(train: Dataset, validation: Dataset | None) -> DataSummary:
    """Return the counts of the data of a training."""
    return DataSummary(
        longest=max(len(sequence) for sequence in train.sequences),
        num_examples=len(train.sequences),
        num_truncated=train.num_truncated,
        num_left_out=train.num_bad + train.num_without_targets,
        num_validation_records=len(validation.sequences) if validation else 0,
    )
