"""What a process shows at its HTTP endpoint, asked for as Prometheus asks; and promtool's opinion of it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of /metrics: values by name and labels, and the type of each metric."""

    text: str
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    types: Mapping[str, str]

    def value(self, name: str, **labels: str) -> float | None:
        """The sample with exactly these labels; None if there is none."""
        return self.values.get((name, frozenset(labels.items())))

    def by(self, label: str, name: str) -> dict[str, float]:
        """The samples of a metric with one label, by its value."""
        return {dict(labels)[label]: value for (found, labels), value in self.values.items() if found == name}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`port` at 127.0.0.1 of the network namespace `netns`, a path."""

    netns: str
    port: int = 9441

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        command = (
            "nsenter",
            f"--net={self.netns}",
            "curl",
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}",
        )
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}{path}"], capture_output=True, text=True, timeout=30
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def scrape(self) -> Scrape:
        """All metrics, of which promtool has nothing bad to say."""
        status, text = self.get("/metrics")
        assert status == 200, text
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        families = list(text_string_to_metric_families(text))
        samples = [sample for family in families for sample in family.samples]
        values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        lines = [line.split() for line in text.splitlines() if line.startswith("# TYPE ")]
        return Scrape(text, values, {line[2]: line[3] for line in lines})
