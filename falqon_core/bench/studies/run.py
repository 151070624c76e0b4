"""Run one study on the device at hand."""

from pathlib import Path

from transformers import LlamaConfig

from falqon_core.bench.steps import StepSetup
from falqon_core.bench.studies import StudyName, StudyReport, Tell
from falqon_core.bench.studies.breakdown import study_breakdown
from falqon_core.bench.studies.costs import study_costs
from falqon_core.bench.studies.overhead import LLAMA_7B_SIZES, SMALL_SIZES, study_overhead
from falqon_core.bench.studies.plot import draw_bars, require_matplotlib
from falqon_core.train.device import select_device

# Four layers of SmolLM2-135M.
SMALL_MODEL = StepSetup(
    LlamaConfig(
        vocab_size=4096,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
    ),
    num_records=4,
    record_tokens=256,
)


def run_study(name: StudyName, plot: Path | None, tell: Tell) -> str:
    """Return the study as Markdown; draw it to `plot` as well. Raises `ConfigError`, before
    measuring, where it could not draw.
    """
    if plot is not None:
        require_matplotlib()
    study = _run(name, tell)
    if plot is not None:
        draw_bars(study.bars, plot)
    return study.markdown


def _run(name: StudyName, tell: Tell) -> StudyReport:
    if name == "costs":
        return study_costs()
    device = select_device("auto")
    is_gpu = device.type == "cuda"
    if name == "overhead":
        return study_overhead(device, LLAMA_7B_SIZES if is_gpu else SMALL_SIZES, tell)
    return study_breakdown(device, StepSetup() if is_gpu else SMALL_MODEL, tell)
