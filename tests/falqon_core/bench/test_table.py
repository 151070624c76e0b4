import pytest

from falqon_core.bench.ceilings import Ceilings
from falqon_core.bench.kernels import KernelResult, Shapes
from falqon_core.bench.steps import OUR_SYSTEM, StepTimings
from falqon_core.bench.table import Report, bound_seconds, markdown

CEILINGS = Ceilings(
    "Some GPU",
    "sm_89",
    24 * 2**30,
    "2.13.0",
    copy_bytes_per_second=800e9,
    bf16_flops=150e12,
    fp8_flops=300e12,
)
KERNELS = [
    KernelResult("copy-like", "[T, H]", "measured", seconds=1e-4, moved=40_000_000, sqnr_db=54.6),
    KernelResult("product", "[T, H] x [I, H]", "measured", seconds=2e-3, moved=1, flops=300e9),
    KernelResult("broken", "[T]", "failed: RuntimeError: a|b"),
]
STEPS = [
    StepTimings(OUR_SYSTEM.name, "published", 8448, 216e12, seconds=[1.0, 1.2, 5.0], rounds=3,
               microbatch_tokens=4224, checkpointing=False, base_copy="none",
               peak_bytes=12 * 2**30),
    StepTimings("peer", "published", 8448, 216e12, seconds=[3.0, 3.0], rounds=1,
               microbatch_tokens=528, checkpointing=True),
    StepTimings("absent", "published", 8448, 216e12, status="not installed: absent"),
]  # fmt: skip
REPORT = Report(
    CEILINGS, {"output": "rowwise", "grad_input": "own"}, Shapes(), KERNELS, "A model", STEPS, 431.6
)


def cells(report: Report, start: str) -> list[str]:
    (line,) = [line for line in markdown(report).splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_kernel_that_moves_bytes_has_their_rate_and_its_share_of_the_copy() -> None:
    assert cells(REPORT, "copy-like") == ["copy-like", "[T, H]", "100.0", "400", "50", "", "", "55"]


def test_a_product_has_operations_and_their_share_of_fp8() -> None:
    assert cells(REPORT, "product") == [
        "product",
        "[T, H] x [I, H]",
        "2000.0",
        "",
        "",
        "150",
        "50",
        "exact",
    ]


def test_a_failure_stands_in_its_row() -> None:
    assert cells(REPORT, "broken") == [
        "broken",
        "[T]",
        "failed: RuntimeError: a/b",
        "",
        "",
        "",
        "",
        "",
    ]


def test_a_step_has_its_median_ratio_rate_and_share_of_the_bound() -> None:
    assert bound_seconds(STEPS[0], CEILINGS) == pytest.approx(0.72)
    ours = [
        f"{OUR_SYSTEM.name}, base copy none",
        "1.2",
        "1.00",
        "7040",
        "60",
        "12.0",
        "4224",
        "no",
        "3, 3",
    ]
    assert cells(REPORT, OUR_SYSTEM.name) == ours
    assert cells(REPORT, "peer") == ["peer", "3", "2.50", "2816", "24", "", "528", "yes", "2, 1"]
    assert cells(REPORT, "absent") == ["absent", "not installed: absent", *[""] * 7]
    assert "### published: 8448 real tokens a step, bound 0.72 s" in markdown(REPORT)


def test_the_head_names_the_card_and_its_ceilings() -> None:
    head = markdown(REPORT)
    assert head.startswith("# Some GPU (sm_89, 24 GiB)\n")
    assert "torch 2.13.0; measured in 432 s" in head
    assert "copy 800 GB/s, bf16 GEMM 150 TFLOP/s, FP8 GEMM 300 TFLOP/s." in head
    assert "FP8 GEMM in use: output rowwise, grad_input own." in head


def test_without_fp8_the_shares_are_of_bf16_and_that_is_said() -> None:
    ceilings = Ceilings(
        "Old GPU", "sm_80", 2**30, "2.13.0", 800e9, 150e12, None, "failed: RuntimeError: no FP8"
    )
    report = Report(ceilings, {"output": "scaled_mm"}, Shapes(), KERNELS, "A model", STEPS, 1.0)
    assert "FP8 GEMM none (failed: RuntimeError: no FP8); shares are of bf16" in markdown(report)
    assert cells(report, "product")[6] == "100"
    assert bound_seconds(STEPS[0], ceilings) == pytest.approx(1.44)


def test_all_rows_of_a_table_have_its_number_of_cells() -> None:
    counts = [line.count("|") for line in markdown(REPORT).splitlines() if line.startswith("|")]
    assert counts == [9] * 5 + [10] * 5
