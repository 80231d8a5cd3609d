"""Counts what the oracle proved, over all tests that ran, also in other processes."""

import pytest


@pytest.fixture
def prove_all(record_property):
    """Report proofs, and the ops they are for, to the summary at the end of the run."""

    def count(proofs, ops: int = 1) -> None:
        record_property("rule_ops", ops)
        record_property("rule_proofs", len(proofs))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    totals = {"rule_ops": 0, "rule_proofs": 0}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name in totals:
                totals[name] += value
    if totals["rule_ops"]:
        terminalreporter.write_line(
            f"op rules: {totals['rule_proofs']} factors of {totals['rule_ops']} ops proven"
        )
