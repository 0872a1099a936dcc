import argparse
import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from k8sovs.config import (
    AgentSettings,
    ConfigError,
    ControllerSettings,
    Datapath,
    EdgeSettings,
    StoreSettings,
    UnusableSetting,
    add_flags,
    load,
    source_of,
)
from k8sovs.logs import LogFormat
from k8sovs.records import Mode

NAMED = {"K8SOVS_NODE_NAME": "node1", "K8SOVS_CONFIG": "/dev/null"}
NETWORK = (
    '{"Name":"k8ssdn","Network":"172.11.0.0/16","HostSubnetLength":10,"ServiceNetwork":"10.96.0.0/12",'
    '"PluginName":"k8s-ovs-multitenant"}'
)


def arguments(*flags: str, settings: type[StoreSettings] = AgentSettings) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser, settings)
    return parser.parse_args(flags)


def agent(*flags: str, environment: Mapping[str, str] = NAMED) -> AgentSettings:
    return load(AgentSettings, arguments(*flags), environment)


def controller(*flags: str) -> ControllerSettings:
    given = arguments("--identity=c1", *flags, settings=ControllerSettings)
    return load(ControllerSettings, given, {"K8SOVS_CONFIG": "/dev/null"})


def config_file(path: Path, text: str) -> dict[str, str]:
    file = path / "config.toml"
    file.write_text(text)
    return {"K8SOVS_CONFIG": str(file)}


def test_what_nobody_sets_has_its_default() -> None:
    settings = agent()
    assert (settings.datapath, settings.vxlan_port, settings.node_address) == (Datapath.AUTO, 4789, None)
    assert settings.etcd_endpoints == ("http://127.0.0.1:2379",)


def test_an_edge_host_is_known_by_its_address_or_by_its_name() -> None:
    def edge(*flags: str) -> EdgeSettings:
        return load(EdgeSettings, arguments(*flags, settings=EdgeSettings), {"K8SOVS_CONFIG": "/dev/null"})

    assert edge("--node-address=192.0.2.50").node_name == ""
    assert edge("--node-name=lb1").node_address is None
    with pytest.raises(ConfigError, match="node-address is not set"):
        edge()


def test_one_file_serves_every_daemon(tmp_path: Path) -> None:
    file = config_file(tmp_path, 'node-name = "a"\ncni-socket = "/run/x"\nidentity = "c1"')
    assert load(EdgeSettings, arguments(settings=EdgeSettings), file).node_name == "a"


def test_a_flag_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, 'node-name = "file"\nbridge = "file"\nprefix = "/file"')
    environment = {**file, "K8SOVS_NODE_NAME": "environment", "K8SOVS_BRIDGE": "environment"}
    settings = agent("--node-name=flag", environment=environment)
    assert (settings.node_name, settings.bridge, settings.prefix) == ("flag", "environment", "/file")


def test_every_kind_of_value_can_be_given_as_text() -> None:
    settings = agent(
        "--etcd-endpoints=http://a:1, http://b:2",
        "--node-address=192.0.2.11",
        "--datapath=netdev",
        "--mtu=1400",
        "--tenancy-deadline-s=2.5",
        "--accept-unsolicited=Yes",
        "--state-dir=/state",
        "--log-format=json",
        "--metrics-address=127.0.0.1:9441",
    )
    assert settings.etcd_endpoints == ("http://a:1", "http://b:2")
    assert settings.node_address == IPv4Address("192.0.2.11")
    assert settings.datapath is Datapath.NETDEV
    assert (settings.mtu, settings.tenancy_deadline_s, settings.accept_unsolicited) == (1400, 2.5, True)
    assert (settings.state_dir, settings.log_format) == (Path("/state"), LogFormat.JSON)
    assert settings.metrics_address == "127.0.0.1:9441"


def test_the_file_may_use_the_types_of_toml(tmp_path: Path) -> None:
    text = """
        node-name = "node1"
        mtu = 1400
        accept-unsolicited = true
        etcd-endpoints = ["http://a:1", "http://b:2"]
    """
    settings = agent(environment=config_file(tmp_path, text))
    assert (settings.mtu, settings.accept_unsolicited) == (1400, True)
    assert settings.etcd_endpoints == ("http://a:1", "http://b:2")


def test_the_network_may_be_a_table_of_the_file(tmp_path: Path) -> None:
    text = """
        [network]
        Name = "k8ssdn"
        Network = "172.11.0.0/16"
        HostSubnetLength = 10
        ServiceNetwork = "10.96.0.0/12"
        PluginName = "K8s-OVS-Subnet"
    """
    given = arguments("--identity=c1", settings=ControllerSettings)
    network = load(ControllerSettings, given, config_file(tmp_path, text)).network
    assert network is not None
    assert (network.network, network.mode) == (IPv4Network("172.11.0.0/16"), Mode.SUBNET)


def test_one_file_serves_agent_and_controller(tmp_path: Path) -> None:
    file = config_file(tmp_path, 'node-name = "node1"\nborn-global = ["default"]')
    assert agent(environment=file).node_name == "node1"
    given = arguments("--identity=c1", settings=ControllerSettings)
    assert load(ControllerSettings, given, file).born_global == ("default",)


def test_an_empty_text_is_no_value_where_there_need_be_none() -> None:
    assert agent("--node-address=").node_address is None
    assert controller("--network=", "--born-global=").network is None
    assert controller("--born-global=").born_global == ()


def test_a_setting_that_must_be_given_names_every_place_for_it() -> None:
    with pytest.raises(ConfigError, match=r"give --node-name, K8SOVS_NODE_NAME, or node-name in /dev/null"):
        agent(environment={"K8SOVS_CONFIG": "/dev/null"})


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [
        ("node-name", "", "must not be empty"),
        ("node-address", "node1", "Expected 4 octets"),
        ("node-address", "fd00::1", "Expected 4 octets"),
        ("datapath", "kernel", "say auto or system or netdev"),
        ("vxlan-port", "0", "from 1 to 65535"),
        ("vxlan-port", "65536", "from 1 to 65535"),
        ("vxlan-port", "vxlan", "say a whole number"),
        ("prefix", "", "begins with a '/'"),
        ("prefix", "k8s", "begins with a '/'"),
        ("prefix", "/k8s/", "does not end with one"),
        ("mtu", "-1", "say a whole number"),
        ("mtu", "1.5", "say a whole number"),
        ("accept-unsolicited", "maybe", "say true or false"),
        ("tenancy-deadline-s", "soon", "number of seconds"),
        ("tenancy-deadline-s", "nan", "number of seconds"),
        ("tenancy-deadline-s", "inf", "number of seconds"),
        ("tenancy-deadline-s", "-1", "number of seconds"),
        ("metrics-address", "localhost", "say a whole number"),
        ("log-level", "loud", "say debug, info, warning or error"),
        ("log-format", "xml", "say text or json"),
    ],
)
def test_a_wrong_value_is_told_with_its_setting_and_its_source(setting: str, value: str, hint: str) -> None:
    variable = f"K8SOVS_{setting.replace('-', '_').upper()}"
    with pytest.raises(ConfigError) as by_environment:
        agent(environment={**NAMED, variable: value})
    assert f"{setting}: {value!r} (from environment variable {variable}) cannot be used: " in str(by_environment.value)
    assert hint in str(by_environment.value)
    with pytest.raises(ConfigError, match=rf"\(from flag --{setting}\)"):
        agent(f"--{setting}={value}")


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [
        ("phase-delay-s", "0", "more than 0"),
        ("drain-delay-s", "61", "at most 60"),
        ("lease-ttl-s", "0", "from 2 to 600"),
        ("lease-ttl-s", "1", "from 2 to 600"),
        ("lease-ttl-s", "601", "from 2 to 600"),
    ],
)
def test_a_time_with_which_a_controller_cannot_work_is_refused(setting: str, value: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}: '{value}' \(from flag --{setting}\) cannot be used: .*{hint}"):
        controller(f"--{setting}={value}")


def test_a_file_that_cannot_be_read_is_told_with_its_setting_and_its_source(tmp_path: Path) -> None:
    flag = f"--etcd-ca={tmp_path / 'missing'}"
    settings = agent(flag, "--etcd-endpoints=https://etcd:2379")
    with pytest.raises(UnusableSetting, match=r"etcd-ca: cannot read .*missing: No such file") as raised:
        _ = settings.etcd
    assert source_of(raised.value.name, arguments(flag), NAMED) == "flag --etcd-ca"
    assert source_of(raised.value.name, arguments(), NAMED) == "the default"


def test_a_wrong_value_of_the_file_is_told_with_the_file(tmp_path: Path) -> None:
    file = config_file(tmp_path, 'node-name = "node1"\nmtu = "big"')
    with pytest.raises(ConfigError, match=r"mtu: 'big' \(from file .*config.toml\) cannot be used"):
        agent(environment=file)


def test_a_network_that_cannot_be_is_told_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"network: .* \(from flag --network\) cannot be used: .*overlap"):
        controller(f"--network={NETWORK.replace('10.96.0.0/12', '172.11.0.0/20')}")


def test_a_word_of_the_file_that_is_no_setting_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no setting node-adress"):
        agent("--node-name=node1", environment=config_file(tmp_path, 'node-adress = "192.0.2.11"'))


@pytest.mark.parametrize("text", ["node-name = ", "\x00"])
def test_a_file_that_is_no_toml_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"configuration file .*config.toml cannot be read: "):
        agent(environment=config_file(tmp_path, text))


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration file .*missing.toml cannot be read"):
        agent(f"--config={tmp_path / 'missing.toml'}")


def test_the_password_of_etcd_comes_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret\n")
    settings = agent("--etcd-user=root", f"--etcd-password-file={path}")
    assert (settings.etcd.user, settings.etcd.password) == ("root", "secret")
    assert "secret" not in repr(settings.etcd)


def test_a_password_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings = agent("--etcd-user=root", f"--etcd-password-file={tmp_path / 'missing'}")
    with pytest.raises(ConfigError, match=r"etcd-password-file: cannot read .*missing: No such file"):
        _ = settings.etcd


@pytest.mark.parametrize(
    "flags",
    [("--etcd-endpoints=nowhere",), ("--etcd-endpoints=",), ("--etcd-cert=/cert",), ("--etcd-user=root",)],
    ids=["malformed", "none", "half-a-certificate", "no-password"],
)
def test_etcd_settings_that_do_not_go_together_are_told(flags: tuple[str, ...]) -> None:
    settings = agent(*flags)
    with pytest.raises(ConfigError, match=r"settings etcd-\*: "):
        _ = settings.etcd


def test_plugins_to_be_chained_are_a_table_in_the_file_or_json_elsewhere(tmp_path: Path) -> None:
    file = config_file(tmp_path, 'cni-chain = [{type = "portmap", capabilities = {portMappings = true}}]')
    plugins = [{"type": "portmap", "capabilities": {"portMappings": True}}]
    assert json.loads(agent("--node-name=n", environment=file).cni_chain) == plugins
    assert json.loads(agent(f"--cni-chain={json.dumps(plugins)}").cni_chain) == plugins
    assert json.loads(agent().cni_chain) == []


@pytest.mark.parametrize("text", ["portmap", "{}", '["portmap"]', '[{"name": "portmap"}]', "["])
def test_plugins_to_be_chained_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cni-chain"):
        agent(f"--cni-chain={text}")
