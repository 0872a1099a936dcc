"""Which plugin is judged: `--plugin PATH --conf FILE`, or without them the two of tests/conformance/subjects.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime import Container, Subject, numbers
from tests.conformance.subjects import BRIDGE, BRIDGE_DEVIATIONS, GIVEN, OURS, bridge, given, ours


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("CNI conformance")
    group.addoption("--plugin", type=Path, help="executable of the plugin to judge")
    group.addoption("--conf", type=Path, help="its network configuration (.conf or .conflist)")
    group.addoption("--domain", help="network namespace to run it in; default: a new one")
    group.addoption("--cni-path", help="where it finds plugins to delegate to; default: its own directory")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("plugin", None) and not config.getoption("conf"):
        raise pytest.UsageError("--plugin needs --conf FILE, a network configuration for it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        names = [GIVEN] if metafunc.config.getoption("plugin", None) else [OURS, BRIDGE]
        metafunc.parametrize("subject", names, indirect=True, scope="session")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is left out of the two judgements."""
    if config.getoption("plugin", None):
        return None
    return "CNI conformance: bridge up to version 1.0.0, which it speaks; k8s-ovs without delegation, which it has not"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not concern one of our two, and mark where `bridge` is known to differ."""
    ours = [item for item in items if isinstance(item, pytest.Function) and "subject" in item.fixturenames]
    left_out = [item for item in ours if not _concerns(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in ours:
        if item.callspec.params["subject"] == BRIDGE:
            name = item.name.replace(f"[{BRIDGE}-", "[").replace(f"[{BRIDGE}]", "")
            if reason := BRIDGE_DEVIATIONS.get(name):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _concerns(item: pytest.Function) -> bool:
    since = item.get_closest_marker("since")
    match item.callspec.params["subject"]:
        case "bridge":
            return since is None or numbers(since.args[0]) <= (1, 0, 0)
        case "k8s-ovs":
            return "delegate" not in item.fixturenames
    return True


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    option = request.config.getoption
    match request.param:
        case "k8s-ovs":
            making = ours()
        case "bridge":
            making = bridge()
        case _:
            making = given(option("plugin"), option("conf"), option("domain"), option("cni_path"))
    with making as subject:
        yield subject


@pytest.fixture
def container(subject: Subject) -> Iterator[Container]:
    with subject.container() as container:
        yield container


@pytest.fixture(autouse=True)
def spoken(request: pytest.FixtureRequest, subject: Subject) -> None:
    """Leave out a test of what came with a version (mark `since`) that the plugin does not speak."""
    mark = request.node.get_closest_marker("since")
    if mark is not None and numbers(subject.version) < numbers(mark.args[0]):
        pytest.skip(f"the plugin speaks {subject.version}; this came with {mark.args[0]}")
