"""A cell that took longer than one with more to do is said; what is merely different is not."""

from harness.outliers import outliers
from harness.record import RunRecord, Status
from harness.report import render_markdown
from tests.harness import records


def grown(**latencies_ms: list[float]) -> RunRecord:
    """T=1, 57 and 901, each with more of everything than the one before."""
    workloads = [records.W1, records.W57, records.W901]
    cells = [
        records.passed(label, workload, latency)
        for label, values in latencies_ms.items()
        for workload, latency in zip(workloads, values, strict=True)
    ]
    return records.record([records.solution(label) for label in latencies_ms], workloads, cells)


def test_longer_than_with_more_to_do():
    """The quickest larger workload is named, the most striking cell first."""
    record = grown(noisy=[0.3, 1.6, 0.4], steady=[0.2, 0.3, 0.29], first=[0.9, 0.5, 0.4])
    found = outliers(record)
    assert [(o.solution, o.latency_us, o.larger_latency_us) for o in found] == [
        (records.solution("noisy").name, 1600.0, 400.0),
        (records.solution("first").name, 900.0, 400.0),
    ]
    assert [round(o.ratio, 2) for o in found] == [4.0, 2.25]
    text = render_markdown(record)
    assert "2 cells took at least 1.5 times as long as the same solution" in text
    assert "noisy 1600.0 us on" in text and "steady 300.0 us on" not in text
    assert "That is noise, such as a busy host" in text
    record.repeats = 3
    assert "medians of 3 repetitions, so a poor choice" in render_markdown(record)


def test_only_more_of_everything_counts():
    """A workload with fewer experts, or with counts that nobody knows, proves nothing; nor does a cell that failed."""
    record = grown(a=[0.3, 1.6, 0.9])
    record.workloads[2].active_experts = 27
    assert outliers(record) == []
    record.workloads[2].active_experts = None
    assert outliers(record) == []
    record.workloads[2].active_experts = 28
    assert len(outliers(record)) == 1
    record.cells[1].status = Status.INCORRECT_NUMERICAL
    assert outliers(record) == []
