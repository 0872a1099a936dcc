"""An edge host of a flat network; and haproxy there following a Service while its pods come and go under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.balancers import PORTS
from tests.support.edge import PORT, Site, assert_fair
from tests.support.lab import K8SOVS, LabUnderTest, eventually

LAB_OPTIONS = ("--nodes", "2", "--edge", "1", "--mode", "subnet")

FOLLOWING = 8010
HAPROXY = f"""
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    balance roundrobin

frontend shop
    bind :{FOLLOWING}
    default_backend shop_web
"""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]},
}
LOAD = 100_000  # more than there is time for
GENERATIONS = 2


@pytest.fixture(scope="module")
def site(lab: LabUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(lab, stack).balance(tmp_path_factory.mktemp("edge"))


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_a_client_outside_is_answered_by_every_pod_in_fair_shares(site: Site, port: int) -> None:
    assert_fair(*site.ask(port).ended())


class Shop:
    """A Service whose pods come when they can serve, and are taken out before they go."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.list = directory / "backends.cfg"
        self.haproxy = directory / "haproxy.cfg"
        self.haproxy.write_text(HAPROXY)
        self._pods: list[dict[str, Any]] = []
        site.lab.run("kubectl", "create", "namespace", "shop")
        manifest = directory / "service.json"
        manifest.write_text(json.dumps(SERVICE))
        self.kubectl("create", "--validate=false", "-f", str(manifest))

    def kubectl(self, *argv: str) -> str:
        return self.site.lab.run("kubectl", "-n", "shop", *argv)

    def add(self, name: str) -> None:
        """A new pod, which joins the Service when its server listens: what a readiness probe is for."""
        pod = self.site.lab.add_pod(f"shop/{name}", "node2")
        self.site.serve(pod, name)
        self.kubectl("label", "pod", name, "app=web")
        self._pods.append(pod)

    def remove_oldest(self, wait_left: Callable[[str], None]) -> None:
        """Take the oldest pod out of the Service, and delete it once nobody asks it any more."""
        pod = self._pods.pop(0)
        name = pod["name"]
        status = json.loads(self.kubectl("get", "pod", name, "-o", "json"))
        for condition in status["status"]["conditions"]:
            condition["status"] = "False" if condition["type"] == "Ready" else condition["status"]
        body = self.list.with_name("status.json")
        body.write_text(json.dumps(status))
        self.kubectl("replace", "--raw", f"/api/v1/namespaces/shop/pods/{name}/status", "-f", str(body))
        wait_left(name)
        self.site.lab("pod", "del", f"shop/{name}")

    def listed(self) -> set[str]:
        """The pods in the file."""
        lines = self.list.read_text().splitlines() if self.list.exists() else []
        return {line.split()[1] for line in lines if line.split()[0] == "server"}

    @contextmanager
    def following(self) -> Iterator[None]:
        """haproxy on the edge host, told by `edge backends` to read the list again as Debian's service is."""
        command = ["lab", "exec", "--name", self.site.lab.name, "edge1", "--"]
        haproxy = ["haproxy", "-W", "-f", str(self.haproxy), "-f", str(self.list)]
        follow = ["edge", "backends", "shop/web", "--format", "haproxy", "--output", str(self.list)]
        subprocess.run([K8SOVS, *follow], check=True, env=self.site.lab.env)
        with subprocess.Popen([K8SOVS, *command, *haproxy], start_new_session=True) as balancer:
            reload = ["--watch", "--reload", f"kill -USR2 {balancer.pid}"]
            with subprocess.Popen([K8SOVS, *follow, *reload], env=self.site.lab.env) as follower:
                try:
                    yield
                finally:
                    follower.terminate()
                    os.killpg(balancer.pid, signal.SIGTERM)


@pytest.mark.timeout(300)
def test_no_request_fails_while_pods_come_and_go_and_haproxy_reads_the_list_again(site: Site, tmp_path: Path) -> None:
    shop = Shop(site, tmp_path)
    for number in range(2):
        shop.add(f"pod{number}")

    def answering() -> set[str]:
        return set(site.answers(FOLLOWING, 30))

    def wait_left(name: str) -> None:
        eventually(lambda: answering() and name not in answering(), f"{name} is asked no more")

    eventually(lambda: "pod1" in shop.kubectl("get", "endpointslices", "-o", "json"), "the Service has its pods")
    with shop.following():
        eventually(lambda: answering() == {"pod0", "pod1"}, "both pods answer")
        asking = [site.ask(FOLLOWING, LOAD) for _ in range(3)]
        for each in asking:
            site.stack.callback(each.stop)
        for number in range(2, 2 + GENERATIONS):
            shop.add(f"pod{number}")
            eventually(lambda number=number: f"pod{number}" in answering(), "the new pod answers")
            shop.remove_oldest(wait_left)
        for each in asking:
            each.stop()
        outcomes = [each.ended() for each in asking]
    assert [failures for _, failures in outcomes if failures] == []
    answered = set().union(*(answers for answers, _ in outcomes))
    assert answered == {f"pod{number}" for number in range(2 + GENERATIONS)}
    assert sum(sum(answers.values()) for answers, _ in outcomes) > 300
