"""The floor of a CNI ADD: the least that any plugin for Open vSwitch has to wait for.

In the process itself, with nothing around it: create the veth pair with its peer in the pod's namespace (netlink),
insert the port (OVSDB), wait for its ofport (an OVSDB `wait`, RFC 7047 section 5.2.6, answered by the database the
moment the switch has written the number).
"""

import json
import os
import socket
from pathlib import Path

from agent.netlink import Netlink, VethEnd, create_veth

DATABASE = "Open_vSwitch"
BRIDGE = [["name", "==", "br0"]]


class Floor:
    """Adds ports to the bridge `br0` of the database behind `db_socket`, in the namespace of the calling thread."""

    def __init__(self, db_socket: Path) -> None:
        self._database = socket.socket(socket.AF_UNIX)
        self._database.connect(str(db_socket))
        self._netlink = Netlink()

    def add(self, name: str, mac: str, netns: str) -> None:
        """Create `name` with its peer `eth0` in the namespace at the path `netns`; return when it has an ofport."""
        sandbox = os.open(netns, os.O_RDONLY)
        self._netlink.execute(
            [create_veth(VethEnd(name, mac, 1450), VethEnd("eth0", "0a:58:0a:00:00:02", 1450, sandbox))]
        )
        os.close(sandbox)
        interface = {"op": "insert", "table": "Interface", "row": {"name": name}, "uuid-name": "interface"}
        row = {"name": name, "interfaces": ["named-uuid", "interface"]}
        port = {"op": "insert", "table": "Port", "row": row, "uuid-name": "port"}
        ports = [["ports", "insert", ["named-uuid", "port"]]]
        self._transact(interface, port, {"op": "mutate", "table": "Bridge", "where": BRIDGE, "mutations": ports})
        this = {"table": "Interface", "where": [["name", "==", name]], "columns": ["ofport"]}
        self._transact({"op": "wait", **this, "until": "!=", "rows": [{"ofport": ["set", []]}]})

    def _transact(self, *operations: dict[str, object]) -> None:
        request = {"method": "transact", "params": [DATABASE, *operations], "id": 0}
        self._database.sendall(json.dumps(request).encode())
        answer = b""
        while True:
            answer += self._database.recv(1 << 16)
            try:
                reply = json.loads(answer)
                break
            except ValueError:
                continue  # a part of it
        failed = reply["error"] or next((result for result in reply["result"] if result and "error" in result), None)
        assert not failed, failed
