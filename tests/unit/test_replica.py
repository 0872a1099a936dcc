"""The replica of the switch's database, by what a server may tell; tests/ovs has what a real one does tell."""

from __future__ import annotations

import asyncio
import json

import pytest

from agent.jsonrpc import Disconnected, Json, JsonRpc, RequestFailed
from agent.replica import NotUnderstood, Replica


def row(**columns: Json) -> Json:
    return {"initial": dict(columns)}


FIRST: Json = {
    "Open_vSwitch": {"o": row(bridges=["uuid", "b"], datapath_types=["set", ["netdev", "system"]])},
    "Bridge": {"b": row(name="br0", ports=["set", [["uuid", "p"], ["uuid", "q"]]], external_ids=["map", [["a", "1"]]])},
    "Port": {"p": row(name="one", interfaces=["uuid", "i"]), "q": row(name="two", interfaces=["uuid", "j"])},
    "Interface": {"i": row(name="one", ofport=3), "j": row(name="two", type="internal")},
}


def replica(*changes: Json) -> Replica:
    made = Replica("br0")
    for change in (FIRST, *changes):
        made.apply(change)
    return made


def test_what_a_new_row_does_not_mention_is_empty() -> None:
    view = replica().view()
    assert (view.ports["one"].ofport, view.ports["two"].ofport) == (3, None)
    assert (view.ports["one"].type, view.ports["two"].type) == ("", "internal")


def test_a_set_changes_by_what_came_and_went() -> None:
    change: Json = {
        "Bridge": {"b": {"modify": {"ports": ["set", [["uuid", "p"], ["uuid", "r"]]]}}},
        "Port": {"p": {"delete": None}, "r": {"insert": {"name": "three", "interfaces": ["uuid", "k"]}}},
        "Interface": {"i": {"delete": None}, "k": {"insert": {"name": "three", "ofport": 4}}},
    }
    assert set(replica(change).view().ports) == {"two", "three"}


def test_a_map_changes_by_pairs_and_one_that_is_told_as_it_was_is_gone() -> None:
    change: Json = {"Bridge": {"b": {"modify": {"external_ids": ["map", [["a", "1"], ["b", "2"]]]}}}}
    again: Json = {"Bridge": {"b": {"modify": {"external_ids": ["map", [["b", "3"]]]}}}}
    assert replica(change, again).view().external_ids == {"b": "3"}


def test_an_optional_value_comes_changes_and_goes() -> None:
    def told(value: Json) -> Json:
        return {"Interface": {"j": {"modify": {"ofport": value}}}}

    changes = [told(7), told(8), told(["set", []])]
    numbers = [replica(*changes[:count]).view().ports["two"].ofport for count in range(4)]
    assert numbers == [None, 7, 8, None]


def test_a_port_of_which_only_a_part_was_told_is_not_there_yet() -> None:
    change: Json = {"Bridge": {"b": {"modify": {"ports": ["uuid", "r"]}}}}
    assert set(replica(change).view().ports) == {"one", "two"}


@pytest.mark.parametrize(
    "change",
    [
        {"Interface": {"gone": {"modify": {"ofport": 1}}}},
        {"Nothing": {"x": {"insert": {}}}},
        {"Interface": {"i": {"modify": {"unasked": 1}}}},
        {"Interface": {"i": {"modify": {"external_ids": "text"}}}},
        {"Interface": {"i": {"modify": {"ofport": {"no": "value"}}}}},
        {"Interface": 7},
        [],
    ],
)
def test_what_does_not_fit_is_not_understood(change: Json) -> None:
    with pytest.raises(NotUnderstood):
        replica(change)


async def test_messages_arrive_in_any_pieces() -> None:
    told: list[tuple[str, Json]] = []
    connection = JsonRpc(lambda method, parameters: told.append((method, parameters)))
    message = json.dumps({"method": "update2", "params": ["ü", {"a": [1, 2]}], "id": None}, ensure_ascii=False)
    for byte in (message + message).encode():
        connection.data_received(bytes([byte]))
    assert told == [("update2", ["ü", {"a": [1, 2]}])] * 2


async def test_answers_find_their_requests_and_probes_are_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against a server that probes first, and answers a request with an error, another with a result, then hangs up."""
    path = str(tmp_path_factory.mktemp("rpc") / "socket")
    probed: list[Json] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"method":"echo","params":["alive?"],"id":"echo"}')
        seen = b""
        while seen.count(b'"id"') < 4:
            seen += await reader.read(1 << 16)
        probed.append(json.loads(seen[seen.index(b'{"result"') :].split(b"}")[0] + b"}"))
        writer.write(b'{"id":2,"error":null,"result":[1]}{"id":1,"error":{"error":"no","details":"why"},"result":null}')
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        connection = await JsonRpc.connect(path, lambda method, parameters: None)
        asked = [asyncio.create_task(connection.request("transact", [number])) for number in range(3)]
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert (str(results[0]), results[1]) == ("no: why", [1])
    assert [type(result) for result in results] == [RequestFailed, list, Disconnected]
    assert probed == [{"result": ["alive?"], "error": None, "id": "echo"}]
