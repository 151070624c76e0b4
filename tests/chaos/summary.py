"""The counts of the chaos tests, below the results; a hook of the whole suite, whose processes
report to one.
"""

import pytest

COUNTS = "chaos"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ends = [
        report
        for kind in ("", "error")
        for report in terminalreporter.stats.get(kind, [])
        if report.when == "teardown"
    ]
    lines = [value for report in ends for name, value in report.user_properties if name == COUNTS]
    if lines:
        terminalreporter.section("chaos")
    for line in lines:
        terminalreporter.line(str(line))
