"""What kubectl 1.32 said to a real Kubernetes 1.36, said to the embedded API server: it answers alike.

The conversations hold every request of fifteen commands but those for schemas, and every answer that is JSON.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.support.apiserver import ApiServerProcess

CONVERSATIONS = json.loads((Path(__file__).parent.parent / "recorded/kubernetes/kubectl-1.32.json").read_text())
PODS = "/api/v1/namespaces/tenant1/pods"

NOT_HERE = re.compile(
    r"""(items\[\]\.)?
    (status\..*                                     # told by kubelets and controllers, which are not in this test
    |spec\.(template\.spec\.)?containers\[\]\.(terminationMessage(Path|Policy)|readinessProbe\..*)
    |spec\.(preemptionPolicy|priority|serviceAccount(Name)?|tolerations.*)   # given by admission
    |spec\.(progressDeadlineSeconds|revisionHistoryLimit|strategy.*)
    |metadata\.annotations\.deployment\.kubernetes\.io/revision
    )""",
    re.VERBOSE,
)
"""Fields of the real one's answers that the embedded server leaves out."""


class Replay:
    """Sends recorded requests, and does between them what a kubelet did."""

    def __init__(self, api: ApiServerProcess) -> None:
        self._address = api.address
        self._listed = ""

    def send(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Code and JSON of the answer; of a watch the first event."""
        content = bytes.fromhex(body["protobuf"]) if isinstance(body, dict) and "protobuf" in body else json.dumps(body)
        with closing(http.client.HTTPConnection(self._address, timeout=10)) as connection:
            connection.request(method, path, None if body is None else content, headers)
            answer = connection.getresponse()
            text = answer.readline() if "watch=true" in path else answer.read()
            return answer.status, json.loads(text)

    def say(self, request: dict[str, Any]) -> tuple[int, Any]:
        """One recorded request; a watch begins where the list before it ended."""
        parts = urlsplit(request["path"])
        query = dict(parse_qsl(parts.query))
        if "watch" in query:
            query["resourceVersion"] = self._listed
            self._end_pod(query["fieldSelector"])
        path = f"{parts.path}?{urlencode(query)}" if query else parts.path
        code, answer = self.send(request["method"], path, request["body"], **request["headers"])
        if answer.get("kind", "").endswith("List"):
            self._listed = answer["metadata"]["resourceVersion"]
        return code, answer

    def run_pod(self, name: str) -> None:
        """As if it had been scheduled: from now on it is deleted by its kubelet."""
        self.send("POST", PODS, {"metadata": {"name": name}, "spec": {"containers": [{"name": "c"}]}})
        self.send("POST", f"{PODS}/{name}/binding", {"target": {"name": "node1"}})

    def _end_pod(self, selector: str) -> None:
        name = "hp" if selector == "metadata.name=hp" else "web-1"
        self.send("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    with ApiServerProcess(tmp_path) as api:
        started = Replay(api)
        started.send("POST", "/api/v1/nodes", {"metadata": {"name": "node1"}})
        yield started


def fields(value: object, path: str = "") -> set[str]:
    """The paths of all fields; entries of a list are one."""
    if isinstance(value, dict):
        found = {f"{path}.{name}".lstrip(".") for name in value}
        return found.union(*(fields(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(fields(inner, f"{path}[]") for inner in value))
    return set()


def test_every_recorded_request_is_answered_as_it_was(replay: Replay) -> None:
    different = []
    for conversation in CONVERSATIONS:
        for request in conversation["requests"]:
            code, answer = replay.say(request)
            told = f"{conversation['command']}: {request['method']} {request['path']}"
            if code != request["code"]:
                different.append(f"{told}: {code} {answer}")
            missing = fields(request.get("answer", {})) - fields(answer)
            different += [f"{told}: no {name}" for name in sorted(missing) if not NOT_HERE.fullmatch(name)]
        if "dep.yaml" in conversation["command"]:
            replay.run_pod("web-1")
        if "hp.yaml" in conversation["command"]:
            replay.run_pod("hp")
    assert different == []
