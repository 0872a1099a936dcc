"""Fixtures of the cluster tier."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, ApiServerProcess, RealApiServer
from tests.support.lab import LabUnderTest, k8sovs

LABS = Path("/run/k8sovs-lab")
PREFIX = "test-"


ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
DATAPATH = os.environ.get("K8SOVS_TEST_DATAPATH", "auto")
"""The kernel tier insists on its own: with `auto`, a broken one would pass on the other."""
FOR_MANY = ("--nodes", "3", "--edge", "1")
REAL_SERVER = {"real_server", "real_api"}
IPVS = Path("/proc/net/ip_vs")
IMAGE = os.environ.get("K8SOVS_IMAGE")


def pytest_report_header() -> list[str]:
    """Say which API server judges, and what is left out."""
    return [
        f"Kubernetes' own API server: {ASSETS or 'left out, as KUBEBUILDER_ASSETS names no directory with it'}",
        f"the image: {IMAGE or 'left out, as K8SOVS_IMAGE names none; make test-image builds it'}",
        f"LVS: {'in this kernel' if IPVS.exists() else 'left out, as ip_vs is not loaded; make test-kernel has it'}",
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs Kubernetes' own API server, an image, or LVS in the kernel, where there is none."""
    needing: list[pytest.Item] = []
    if not ASSETS:
        needing += [item for item in items if isinstance(item, pytest.Function) and REAL_SERVER & _wanted(item)]
    if not IPVS.exists():
        needing += [item for item in items if item.get_closest_marker("ipvs")]
    if not IMAGE:
        needing += [item for item in items if item.get_closest_marker("image")]
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]
    if DATAPATH == "system":
        items.sort(key=lambda item: not _shares_lab(_lab_options(item)))  # stable: modules stay as they are


def _lab_options(item: pytest.Item) -> tuple[str, ...]:
    module = item.getparent(pytest.Module)
    return () if module is None else tuple(getattr(module.obj, "LAB_OPTIONS", ()))


def _shares_lab(options: tuple[str, ...]) -> bool:
    """Whether a module with these options has the kernel tier's one lab of multitenant mode."""
    return DATAPATH == "system" and "--mode" not in options


def _wanted(item: pytest.Function) -> set[object]:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*item.fixturenames, *(value for value in parameters if isinstance(value, str))}


@pytest.fixture(scope="session", autouse=True)
def no_labs_of_dead_runs() -> None:
    """Remove what a test run that crashed has left; a lab's name ends in the process id of its run."""
    for directory in LABS.glob(f"{PREFIX}*"):
        if not Path("/proc", directory.name.removeprefix(PREFIX)).exists():
            k8sovs("lab", "down", "--name", directory.name)


class OneLab:
    """At most one lab: the one that the last module asked for, until the next asks for another."""

    def __init__(self) -> None:
        self._name = f"{PREFIX}{os.getpid()}"
        self._lab = LabUnderTest(self._name)
        self._options: tuple[str, ...] | None = None

    def lend(self, options: tuple[str, ...]) -> LabUnderTest:
        """The lab, made with these options of `lab up`."""
        if options != self._options:
            self.end()
            self._lab = LabUnderTest(self._name)
            self._lab("up", "--datapath", DATAPATH, *options)
            self._options = options
        return self._lab

    def tidy(self) -> None:
        """Take the pods away; after that it is as good as new to most tests."""
        for pod in self._lab.pods():
            self._lab("pod", "del", f"{pod['namespace']}/{pod['name']}")

    def end(self) -> None:
        """Take it down."""
        self._options = None
        self._lab("down")


@pytest.fixture(scope="session")
def one_lab() -> Iterator[OneLab]:
    """The lab of this run, whatever it may be at the moment."""
    one_lab = OneLab()
    try:
        yield one_lab
    finally:
        one_lab.end()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, one_lab: OneLab) -> Iterator[LabUnderTest]:
    """A lab for the tests of one module, whose LAB_OPTIONS (if it has them) are options of `lab up`.

    In the kernel tier, where a lab takes a minute to make, modules of multitenant mode have one that suits them all.
    """
    options = _lab_options(request.node)
    shared = _shares_lab(options)
    yield one_lab.lend(FOR_MANY if shared else options)
    if shared:
        one_lab.tidy()
    else:
        one_lab.end()


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealApiServer]:
    """Kubernetes' own API server, for all tests of a run."""
    assert ASSETS, "tests that ask for it are left out where there is none"
    with RealApiServer(Path(ASSETS), tmp_path_factory.mktemp("kubernetes")) as running:
        yield running


@pytest.fixture
def real_api(real_server: RealApiServer) -> Iterator[RealApiServer]:
    """The same, without what a test left in it."""
    yield real_server
    real_server.clean()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[ApiServerProcess]:
    with ApiServerProcess(tmp_path, "--bookmark-interval", "0.2") as process:
        yield process


@pytest.fixture(params=["embedded", "real_api"])
def api(request: pytest.FixtureRequest) -> ApiServer:
    """One after the other: the embedded server is right where the real one passes the same test."""
    server: ApiServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def tenant(api: ApiServer) -> ApiServer:
    """With a namespace `t`."""
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    return api


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerProcess]:
    """With a namespace `t`, for all tests that leave nothing behind."""
    with ApiServerProcess(tmp_path_factory.mktemp("api")) as process:
        process.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
        yield process


@pytest.fixture(params=["unchanged", "real_api"])
def refusing(request: pytest.FixtureRequest) -> ApiServer:
    """With a namespace `t`, for tests of what is refused."""
    server: ApiServer = request.getfixturevalue(request.param)
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    return server
