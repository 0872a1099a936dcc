"""Every command of `k8sovs` with arguments that it cannot use: the last line says what is wrong."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from k8sovs.cli import command_line

USAGE = 2

ARGUMENTS = {
    "": "required: COMMAND",
    "dance": "invalid choice: 'dance'",
    "net": "required: COMMAND",
    "net dance": "invalid choice: 'dance'",
    "net ls extra": "unrecognized arguments: extra",
    "net join": "required: namespace, target",
    "net join red": "required: target",
    "net join red blue green": "unrecognized arguments: green",
    "net isolate": "required: namespace",
    "net isolate red blue": "unrecognized arguments: blue",
    "net global": "required: namespace",
    "edge": "required: COMMAND",
    "edge add": "required: address",
    "edge add lb1": "'lb1' is not an IPv4 address",
    "edge add 192.0.2.300": "'192.0.2.300' is not an IPv4 address",
    "edge add 192.0.2.90 lb": "unrecognized arguments: lb",
    "edge add 192.0.2.90 --name": "--name: expected one argument",
    "edge rm": "required: address",
    "edge rm lb1": "'lb1' is not an IPv4 address",
    "edge rm 192.0.2.90 lb": "unrecognized arguments: lb",
    "edge backends": "required: NAMESPACE/SERVICE[:PORT], --format",
    "edge backends red/web": "required: --format",
    "edge backends red/web --format lvs": "--format: invalid choice: 'lvs'",
    "edge backends red --format json": "'red' is not NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT",
    "edge backends red/web --format json --reload true": "--reload needs --output: what would be read again?",
    "edge ls extra": "unrecognized arguments: extra",
    "status extra": "unrecognized arguments: extra",
    "check extra": "unrecognized arguments: extra",
    "check --role cook": "--role: invalid choice: 'cook'",
    "migrate-etcd2": "required: dump",
    "migrate-etcd2 /nowhere extra": "unrecognized arguments: extra",
    "uninstall extra": "unrecognized arguments: extra",
    "lab": "required: COMMAND",
    "lab dance": "invalid choice: 'dance'",
    "lab up --nodes many": "--nodes: invalid int value: 'many'",
    "lab up --mode open": "--mode: invalid choice: 'open'",
    "lab up --datapath magic": "--datapath: invalid choice: 'magic'",
    "lab up --host-subnet-length long": "--host-subnet-length: invalid int value: 'long'",
    "lab up --edge some": "--edge: invalid int value: 'some'",
    "lab up --etcd-members some": "--etcd-members: invalid int value: 'some'",
    "lab up --service-proxy magic": "--service-proxy: invalid choice: 'magic'",
    "lab stop": "required: kind",
    "lab stop kubelet": "invalid choice: 'kubelet'",
    "lab start": "required: kind",
    "lab down extra": "unrecognized arguments: extra",
    "lab env extra": "unrecognized arguments: extra",
    "lab status extra": "unrecognized arguments: extra",
    "lab exec": "required: NAMESPACE/NAME|nodeK",
    "lab exec node1 true": "unrecognized arguments: true",
    "lab status -- true": "only 'lab exec' runs a command: unexpected '-- true'",
    "lab pod": "required: COMMAND",
    "lab pod add": "required: NAMESPACE/NAME",
    "lab pod add web": "'web' is not NAMESPACE/NAME",
    "lab pod add red/": "'red/' is not NAMESPACE/NAME",
    "lab pod add red/a/b": "'red/a/b' is not NAMESPACE/NAME",
    "lab pod add red/web --label x": "--label: 'x' is not KEY=VALUE",
    "lab pod add red/web --annotation =x": "--annotation: '=x' is not KEY=VALUE",
    "lab pod del": "required: NAMESPACE/NAME",
    "lab pod ls extra": "unrecognized arguments: extra",
    "agent": "node-name is not set: give --node-name, K8SOVS_NODE_NAME, or node-name in",
    "agent --node-name a extra": "unrecognized arguments: extra",
    "agent --node-name a --vxlan-port 0": "vxlan-port: '0' (from flag --vxlan-port) cannot be used",
    "agent --node-name a --prefix x": "prefix: 'x' (from flag --prefix) cannot be used",
    "agent --node-name a --etcd-endpoints ftp://x": "etcd endpoint 'ftp://x' is not of the form",
    "agent --node-name a --etcd-password-file /nowhere": "etcd-password-file: cannot read /nowhere",
    "agent --node-name a --metrics-address 192.0.2.254:80": "metrics-address: cannot listen on 192.0.2.254:80",
    "agent --edge": "node-address is not set: give --node-address, as it was told to 'k8sovs edge add'",
    "agent --edge --node-name a --cni-socket /run/x": "unrecognized arguments: --cni-socket /run/x",
    "agent --node-address 192.0.2.254 --edge": "node-address: no device of this node holds its address 192.0.2.254",
    "controller": "identity is not set",
    "controller --identity a --network {}": "network: '{}' (from flag --network) cannot be used",
    "controller --identity a --lease-ttl-s 0": "lease-ttl-s: '0' (from flag --lease-ttl-s) cannot be used",
    "controller --identity a --kubeconfig /nowhere": "/nowhere not found",
}


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    """Every command that does something, in full."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name.strip()
    for choices in below:
        for word, one in choices.items():
            yield from commands(one, f"{name} {word}")


def test_every_command_is_tried_with_wrong_arguments() -> None:
    tried = [line.split() for line in ARGUMENTS]
    known = [name.split() for name in commands(command_line())]
    assert [name for name in known if not any(line[: len(name)] == name for line in tried)] == []


@pytest.mark.parametrize(("line", "said"), ARGUMENTS.items(), ids=ARGUMENTS)
def test_wrong_arguments_are_named(line: str, said: str) -> None:
    command = [sys.executable, "-m", "k8sovs.cli", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "K8SOVS_CONFIG": "/dev/null"})
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert said in done.stderr.splitlines()[-1]
