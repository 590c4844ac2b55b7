"""Short names of solutions and workloads, unique within one record."""

import re
from collections import Counter

from harness.record import RunRecord

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Names:
    """Looks up what a report calls things."""

    def __init__(self, record: RunRecord):
        labels = Counter(solution.label for solution in record.solutions)
        self._labels = {
            solution.name: solution.label if labels[solution.label] == 1 else solution.name
            for solution in record.solutions
        }
        heads = Counter(workload.id[:8] for workload in record.workloads)
        self._ids = {
            workload.id: workload.id[:8]
            if _UUID.fullmatch(workload.id) and heads[workload.id[:8]] == 1
            else workload.id
            for workload in record.workloads
        }
        self._tokens = {workload.id: workload.seq_len for workload in record.workloads}
        self.workload_heading = (
            "UUID" if all(_UUID.fullmatch(w.id) for w in record.workloads) else "Workload"
        )

    def label(self, solution: str) -> str:
        """The label of a solution, or its full name where labels collide."""
        return self._labels.get(solution, solution)

    def workload(self, workload: str) -> str:
        """The first 8 characters of a UUID (in full where two begin alike); any other id in
        full."""
        return self._ids.get(workload, workload)

    def workload_at(self, workload: str) -> str:
        """The same with its number of tokens: 'f7d6ac7c (T=52)'."""
        return f"{self.workload(workload)} (T={self._tokens[workload]})"
