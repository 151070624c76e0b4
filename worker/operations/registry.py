from typing import Any

from app.models import (
    Batch,
    DatasetStatistics,
    Evaluation,
    Export,
    FileCheck,
    FileImport,
    ModelImport,
)
from app.models.operation import Operation
from worker.operations.batch import BatchHandler
from worker.operations.dataset_statistics import DatasetStatisticsHandler
from worker.operations.evaluation import EvaluationHandler
from worker.operations.export import ExportHandler
from worker.operations.file_check import FileCheckHandler
from worker.operations.file_import import FileImportHandler
from worker.operations.handler import OperationHandler
from worker.operations.model_import import ModelImportHandler

HANDLERS: dict[type[Operation], type[OperationHandler[Any]]] = {
    FileImport: FileImportHandler,
    FileCheck: FileCheckHandler,
    DatasetStatistics: DatasetStatisticsHandler,
    Export: ExportHandler,
    ModelImport: ModelImportHandler,
    Evaluation: EvaluationHandler,
    Batch: BatchHandler,
}
