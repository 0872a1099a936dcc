"""Draws the dashboard: runs a lab through an eventful minute, lets Prometheus answer the panels' queries, writes SVG.

The endpoints of a lab are in network namespaces of their own, so they are scraped here, with times; promtool makes
blocks of the samples, and a Prometheus that listens on loopback alone answers from those.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from xml.sax.saxutils import escape

from prometheus_client.parser import text_string_to_metric_families

from tests.support.lab import LabUnderTest, k8sovs
from tests.support.metrics import Endpoint
from tests.support.runtime import Node

DASHBOARD = Path("deploy/grafana/k8sovs.json")
PICTURE = Path("docs/dashboard.svg")
SCRAPE_S = 1.0
RATE = "10s"
PORT = 19590
WIDTH, HEIGHT, COLUMNS, PAD = 360, 190, 3, 12
COLOURS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#8a5a00", "#666666")

Series = tuple[str, list[tuple[float, float]]]
"""A legend, and times (s) with values."""


class Recorder:
    """Scrapes endpoints until told to stop; keeps every sample with its time and its instance."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._types: dict[str, str] = {}
        self._samples: dict[str, list[str]] = {}
        self._over = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SCRAPE_S):
            for instance, endpoint in self._endpoints.items():
                self._take(instance, endpoint.get("/metrics")[1], time.time())

    def _take(self, instance: str, text: str, at: float) -> None:
        for family in text_string_to_metric_families(text):
            if not family.name.startswith("k8sovs_") or family.name.endswith("_created"):
                continue
            self._types[family.name] = family.type
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    labels = ",".join(f'{k}="{v}"' for k, v in {**sample.labels, "instance": instance}.items())
                    line = f"{sample.name}{{{labels}}} {sample.value} {at:.3f}"
                    self._samples.setdefault(family.name, []).append(line)

    def openmetrics(self) -> str:
        """All samples, as promtool reads them."""
        parts = [
            "\n".join([f"# TYPE {name} {self._types[name]}", *sorted(lines, key=_series_then_time)])
            for name, lines in self._samples.items()
        ]
        return "\n".join([*parts, "# EOF\n"])


def _series_then_time(line: str) -> tuple[str, float]:
    series, _, at = line.rsplit(" ", 2)
    return series, float(at)


def eventful_minute(lab: LabUnderTest, seconds: float) -> None:
    """Pods come and go; packets are dropped by tenancy; a switch is away; two tenants join and part."""
    nodes = [Node(status) for status in lab.status()["nodes"]]
    red, blue = lab.add_pod("red/a", "node1"), lab.add_pod("blue/b", "node3")
    ping = ("exec", "red/a", "--", "sh", "-c", f"ping -q -i 0.1 -c {int(seconds * 10)} {blue['ip']} >/dev/null & true")
    lab(*ping)
    assert red["ip"] != blue["ip"]
    began, turn = time.monotonic(), 0
    events = [
        (0.25, lambda: k8sovs("net", "join", "red", "blue", env=lab.env)),
        (0.45, lambda: lab("stop", "vswitchd", "node2")),
        (0.60, lambda: lab("start", "vswitchd", "node2")),
        (0.75, lambda: k8sovs("net", "isolate", "red", env=lab.env)),
    ]
    while (elapsed := time.monotonic() - began) < seconds:
        while events and elapsed > events[0][0] * seconds:
            events.pop(0)[1]()
        node, turn = nodes[turn % 2 * 2], turn + 1  # the second node's switch will be away
        with node.attached("red", f"p{turn}"), node.attached("blue", f"q{turn}"):
            time.sleep(0.3)  # pods that live for a while, for the picture


@contextmanager
def prometheus(samples: str) -> Iterator[str]:
    """The address of a Prometheus that has `samples`, and scrapes nothing."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "samples").write_text(samples)
        (home / "config.yml").write_text("{}")
        blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", home / "samples", home / "data"]
        subprocess.run(blocks, check=True, stdout=subprocess.DEVNULL)
        address = f"127.0.0.1:{PORT}"
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={home / 'config.yml'}",
                f"--storage.tsdb.path={home / 'data'}",
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address={address}",
                "--log.level=error",
            ]
        )
        try:
            _wait_ready(address)
            yield address
        finally:
            server.terminate()
            server.wait()


def _wait_ready(address: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)  # Prometheus tells nobody when it is up: it is asked again


def ask(address: str, expression: str, legend: str, begin: float, end: float) -> list[Series]:
    """What Prometheus answers to one query of a panel."""
    query = expression.replace("$__rate_interval", RATE).replace("$instance", ".*")
    parameters = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    with urllib.request.urlopen(f"http://{address}/api/v1/query_range?{parameters}", timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    return [
        (
            re.sub(r"\{\{(\w+)\}\}", lambda name, it=one: it["metric"].get(name[1], ""), legend),
            [(float(at), float(value)) for at, value in one["values"] if value != "NaN"],
        )
        for one in found
    ]


def draw(panels: Sequence[tuple[str, str, list[Series]]], begin: float, end: float) -> str:
    """The panels as one SVG: title, unit and series of each."""
    rows = -(-len(panels) // COLUMNS)
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">']
    parts.append(f'<rect {size} fill="white"/>')
    for number, (title, unit, series) in enumerate(panels):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{_panel(title, unit, series, begin, end)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, unit: str, series: list[Series], begin: float, end: float) -> str:
    left, top, width, height = 46, 26, WIDTH - 46 - PAD, HEIGHT - 26 - 50
    highest = max((value for _, points in series for _, value in points), default=0) or 1
    parts = [
        f'<text x="{PAD}" y="16" font-size="12" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{escape(_amount(highest, unit))}</text>',
        f'<text x="{left - 4}" y="{top + height}" text-anchor="end">0</text>',
    ]
    shown = sorted(series, key=lambda one: -max((value for _, value in one[1]), default=0))[: len(COLOURS)]
    words, columns = [], 3
    for index, (legend, points) in enumerate(shown):
        places = " ".join(
            f"{left + (at - begin) / (end - begin) * width:.1f},{top + height - value / highest * height:.1f}"
            for at, value in points
        )
        colour = COLOURS[index]
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        at = (left + index % columns * width / columns, top + height + 13 + index // columns * 12)
        words.append(f'<text x="{at[0]:.0f}" y="{at[1]}" fill="{colour}">{escape(legend[:22])}</text>')
    return "".join(parts + words)


def _amount(value: float, unit: str) -> str:
    match unit:
        case "s":
            return f"{value * 1000:.3g} ms"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case _:
            return f"{value:.3g}"


def main() -> None:
    """Run the lab, ask, draw."""
    parser = argparse.ArgumentParser(prog="dashboard-picture")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--name", default="picture", help="of the lab")
    options = parser.parse_args()
    lab = LabUnderTest(options.name)
    try:
        lab("up", "--nodes", "3")
        endpoints = {f"node{n}": Endpoint(f"/run/netns/{options.name}-node{n}") for n in (1, 2, 3)}
        control = f"/run/netns/{options.name}-control"
        endpoints |= {f"controller{n}": Endpoint(control, 9441 + n) for n in (1, 2)}
        begin = time.time()
        with Recorder(endpoints) as recorder:
            eventful_minute(lab, options.seconds)
        end = time.time()
    finally:
        lab("down")
    with prometheus(recorder.openmetrics()) as address:
        panels = [
            (
                panel["title"],
                panel["fieldConfig"]["defaults"]["unit"],
                [
                    series
                    for target in panel["targets"]
                    for series in ask(address, target["expr"], target["legendFormat"], begin, end)
                ],
            )
            for panel in json.loads(DASHBOARD.read_text())["panels"]
        ]
    PICTURE.write_text(draw(panels, begin, end))
    empty = [title for title, _, series in panels if not series]
    print(f"{PICTURE}: {len(panels)} panels" + (f"; without data: {', '.join(empty)}" if empty else ""))


if __name__ == "__main__":
    main()
