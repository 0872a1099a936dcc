import json
from pathlib import Path

from cni.conf import install_conf, install_executable, render_conflist
from cni.request import NetConf
from cni.versions import SUPPORTED

SOCKET = Path("/run/k8sovs/cni.sock")


def test_the_configuration_gives_the_plugin_its_socket_and_asks_for_bandwidth() -> None:
    plugin = json.loads(render_conflist(SOCKET))["plugins"][0]
    assert (plugin["socket"], plugin["capabilities"]) == (str(SOCKET), {"bandwidth": True})


def test_what_a_runtime_derives_from_the_configuration_is_a_request_configuration() -> None:
    conflist = json.loads(render_conflist(SOCKET))
    for version in (conflist["cniVersion"], *conflist["cniVersions"]):
        document = json.dumps(conflist["plugins"][0] | {"name": conflist["name"], "cniVersion": version})
        assert NetConf.parse(document.encode()).type == "k8s-ovs"
    assert conflist["cniVersions"] == list(SUPPORTED)


def test_plugins_that_an_operator_adds_come_after_ours_as_he_wrote_them() -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    plugins = json.loads(render_conflist(SOCKET, json.dumps([portmap])))["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["k8s-ovs", "portmap"]
    assert plugins[1] == portmap


def test_an_installed_configuration_is_readable_and_alone_in_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-k8s-ovs.conflist"
    install_conf(path.parent, b"{}")
    assert list(path.parent.iterdir()) == [path]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"{}", 0o644)


def test_the_executable_is_replaced_by_a_new_file_so_a_running_one_is_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"old")
    path = tmp_path / "bin" / "k8s-ovs"
    install_executable(path.parent, source)
    with path.open("rb") as running:
        source.write_bytes(b"new")
        install_executable(tmp_path / "bin", source)
        assert (running.read(), path.read_bytes()) == (b"old", b"new")
    assert path.stat().st_mode & 0o777 == 0o755


def test_what_is_installed_already_is_not_written_again(tmp_path: Path) -> None:
    assert install_conf(tmp_path, b"{}")
    before = (tmp_path / "10-k8s-ovs.conflist").stat()
    assert not install_conf(tmp_path, b"{}")
    assert (tmp_path / "10-k8s-ovs.conflist").stat().st_ino == before.st_ino


def test_a_mode_that_somebody_changed_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "10-k8s-ovs.conflist"
    install_conf(tmp_path, b"{}")
    path.chmod(0o600)
    assert install_conf(tmp_path, b"{}")
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_files_of_others_stay(tmp_path: Path) -> None:
    other = tmp_path / "00-other.conf"
    other.write_text("{}")
    install_conf(tmp_path, b"{}")
    assert other.read_text() == "{}"
