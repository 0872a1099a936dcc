"""`k8sovs edge backends` against an API server that changes its mind and goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServerProcess
from tests.support.lab import K8SOVS, eventually

FIRST, SECOND = "172.11.0.2", "172.11.4.2"
SLICE_LABELS = {"kubernetes.io/service-name": "web"}


class World:
    """An API server with a Service `web` in namespace `red`, and pods behind it as the test says."""

    def __init__(self, api: ApiServerProcess, directory: Path) -> None:
        self.api = api
        self.file = directory / "backends.json"
        self.reloads = directory / "reloads"
        self.fill()

    def fill(self, a_slice: Mapping[str, object] | None = None) -> None:
        self.create("/api/v1/namespaces", {"metadata": {"name": "red"}})
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        self.create("/api/v1/namespaces/red/services", {"metadata": {"name": "web"}, "spec": {"ports": ports}})
        for name, address in (("a", FIRST), ("b", SECOND)):
            spec = {"nodeName": "node1", "containers": [{"name": "c", "image": "none"}]}
            self.create("/api/v1/namespaces/red/pods", {"metadata": {"name": name}, "spec": spec})
            status = {"status": {"podIP": address, "phase": "Running"}}
            patch = {"Content-Type": "application/merge-patch+json"}
            code, _ = self.api.request("PATCH", f"/api/v1/namespaces/red/pods/{name}/status", status, **patch)
            assert code == 200
        self.create("/apis/discovery.k8s.io/v1/namespaces/red/endpointslices", a_slice or self.slice_of(a=FIRST))

    def create(self, path: str, body: object) -> None:
        code, answer = self.api.request("POST", path, body)
        assert code == 201, answer

    def slice_of(self, **pods: str) -> dict[str, object]:
        return {
            "metadata": {"name": "web-1", "labels": SLICE_LABELS},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": name}}
                for name, address in pods.items()
            ],
        }

    def serve(self, **pods: str) -> None:
        """Make these the ready pods."""
        path = "/apis/discovery.k8s.io/v1/namespaces/red/endpointslices/web-1"
        code, answer = self.api.request("PUT", path, self.slice_of(**pods))
        assert code == 200, answer

    def command(self, *options: str, service: str = "red/web") -> list[str]:
        kubeconfig = ["--kubeconfig", str(self.api.kubeconfig)]
        return [K8SOVS, "edge", "backends", service, "--format", "json", *kubeconfig, *options]

    def once(self, *options: str, service: str = "red/web") -> subprocess.CompletedProcess[str]:
        command = self.command(*options, service=service)
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    @contextmanager
    def watching(self) -> Iterator[subprocess.Popen[str]]:
        reload = f"echo x >> {self.reloads}"
        command = self.command("--watch", "--output", str(self.file), "--reload", reload)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)

    def written(self) -> list[str] | None:
        """The addresses in the file."""
        return addresses(self.file.read_text()) if self.file.exists() else None


def addresses(text: str) -> list[str]:
    return [one["address"] for each in json.loads(text) for one in each["backends"]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ApiServerProcess(tmp_path) as api:
        yield World(api, tmp_path)


def test_once_prints_or_writes_the_list_and_says_what_is_not_there(world: World) -> None:
    assert addresses(world.once(service="red/web:http").stdout) == [FIRST]
    assert world.once("--output", str(world.file), "--reload", f"echo x >> {world.reloads}").returncode == 0
    assert (world.written(), world.reloads.read_text()) == ([FIRST], "x\n")
    for service, said in {
        "red/wep": "there is no Service wep in namespace red",
        "red/web:grpc": "no such port; it has http (80)",
    }.items():
        failed = world.once("--output", str(world.file), service=service)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert said in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
    world.api.kill()
    failed = world.once("--output", str(world.file))
    assert failed.returncode == 1
    assert "no answer to GET" in failed.stderr
    assert world.written() == [FIRST]


def test_the_file_follows_the_pods_and_stays_while_the_api_is_away(world: World) -> None:
    with world.watching():
        eventually(lambda: world.written() == [FIRST], "the list is there")
        world.serve(a=FIRST, b=SECOND)
        eventually(lambda: world.written() == [FIRST, SECOND], "the second pod is in it")
        eventually(lambda: len(world.reloads.read_text().split()) == 2, "each change was read")
        world.api.kill()
        # A file that is watched for a while, as nothing is to happen.
        with pytest.raises(AssertionError):
            eventually(lambda: world.written() != [FIRST, SECOND], "the file changes", deadline_s=1)
        world.api.start()
        world.fill()
        eventually(lambda: world.written() == [FIRST], "the list is followed again", deadline_s=30)


def test_a_watch_that_starts_while_the_api_is_away_keeps_the_file_that_it_finds(world: World) -> None:
    world.once("--output", str(world.file))
    world.api.kill()
    with world.watching() as process:
        assert process.stderr is not None
        assert "kubernetes-watch-interrupted" in process.stderr.readline()
        assert world.written() == [FIRST]
        assert not world.reloads.exists()


def test_a_service_whose_pods_all_go_and_one_that_is_deleted_have_an_empty_list(world: World) -> None:
    with world.watching() as process:
        eventually(lambda: world.written() == [FIRST], "the list is there")
        world.serve()
        eventually(lambda: world.written() == [], "nobody is ready")
        world.serve(b=SECOND)
        eventually(lambda: world.written() == [SECOND], "somebody is")
        world.api.request("DELETE", "/api/v1/namespaces/red/services/web")
        eventually(lambda: world.written() == [], "the Service is gone")
        assert process.stderr is not None
        told = next(line for line in process.stderr if "backends-left-out" in line)
        assert "there is no Service web in namespace red" in told


def test_the_pods_of_a_slice_that_can_no_longer_be_read_stay(world: World) -> None:
    with world.watching() as process:
        eventually(lambda: world.written() == [FIRST], "the list is there")
        process.send_signal(signal.SIGSTOP)
        world.api.kill()
        world.api.start()
        world.fill(a_slice={**world.slice_of(), "endpoints": 7})
        another = {**world.slice_of(b=SECOND), "metadata": {"name": "web-2", "labels": SLICE_LABELS}}
        world.create("/apis/discovery.k8s.io/v1/namespaces/red/endpointslices", another)
        process.send_signal(signal.SIGCONT)
        eventually(lambda: world.written() != [FIRST], "the list is followed again", deadline_s=30)
        assert world.written() == [FIRST, SECOND]


def test_a_reader_who_leaves_ends_a_watch_without_a_traceback(world: World) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer) as output:
        process = subprocess.Popen(world.command("--watch"), stdout=output, stderr=subprocess.PIPE, text=True)
    with os.fdopen(reader) as lines:
        assert addresses(lines.readline()) == [FIRST]
    world.serve(b=SECOND)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in said) == (141, False)
