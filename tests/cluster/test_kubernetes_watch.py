"""The list/watch loop against a server that misbehaves by script."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from k8sovs.kubernetes import (
    EndpointSlice,
    Gone,
    Kubernetes,
    KubernetesError,
    KubernetesUnavailable,
    Listed,
    Namespace,
    ObjectKey,
    Pod,
    Put,
    Resource,
    Service,
    Timing,
    key_of,
)
from tests.support.scripted_api import Answer, ScriptedApi, Stream, Then

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"
QUICK = Timing(request_s=2.0, inactivity_s=0.2, first_delay_s=0.01, longest_delay_s=0.04, settled_s=5.0)
DEEP = b'{"type":"ADDED","object":{"metadata":{"name":"a"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"
EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 5 (693)"}


def namespace(name: str, version: int, uid: str = "u", **extra: object) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(version), "uid": f"{uid}-{name}"}, **extra}


def listing(version: int, *items: object, **metadata: object) -> Answer:
    return Answer({"kind": "NamespaceList", "metadata": {"resourceVersion": str(version), **metadata}, "items": items})


def bookmark(version: int) -> tuple[str, object]:
    return "BOOKMARK", {"metadata": {"resourceVersion": str(version)}}


def undecodable(name: str, version: int, uid: str = "u") -> dict[str, object]:
    return namespace(name, version, uid, spec={"finalizers": 7})


def told(change: object) -> str:
    match change:
        case Listed(items=items):
            return f"listed {' '.join(sorted(key_of(item).name for item in items))}".rstrip()
        case Put(key=key):
            return f"put {key.name}"
        case Gone(key=key):
            return f"gone {key.name}"
    return repr(change)


class Played:
    """What a watch of namespaces said, what it asked, and its counters."""

    def __init__(self, changes: list[object], api: ScriptedApi, kubernetes: Kubernetes) -> None:
        self.changes = [told(change) for change in changes]
        self.raw = changes
        self.asked = [request.query.get("resourceVersion", "list") for request in api.requests]
        self.requests = api.requests
        self.statistics = kubernetes.statistics()


async def play(
    directory: Path,
    *steps: Answer | Stream,
    changes: int | None = None,
    requests: int | None = None,
    kind: type[Resource] = Namespace,
    timing: Timing = QUICK,
) -> Played:
    """Watch until so many changes were told, or until so many requests came."""
    heard: list[object] = []
    async with ScriptedApi(directory, steps) as api, Kubernetes(str(api.kubeconfig), timing=timing) as kubernetes:

        async def listen() -> None:
            async with aclosing(kubernetes.watch(kind)) as stream:
                async for change in stream:
                    heard.append(change)
                    if len(heard) == changes:
                        return

        ends = [asyncio.create_task(listen())]
        if requests is not None:
            ends.append(asyncio.create_task(api.wait_requests(requests)))
        done, _ = await asyncio.wait(ends, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        assert done, f"the watch said {heard} and asked {api.requests}"
        return Played(heard, api, kubernetes)


async def refusal(directory: Path, step: Answer | Stream, kind: type[KubernetesError] = KubernetesError) -> str:
    """The message of a get that is answered like this."""
    async with ScriptedApi(directory, [step]) as api, Kubernetes(str(api.kubeconfig), timing=QUICK) as kubernetes:
        with pytest.raises(kind) as caught:
            await kubernetes.get(Namespace, "a")
    return str(caught.value)


async def test_a_watch_begins_with_the_list_and_goes_on_from_its_version(tmp_path: Path) -> None:
    played = await play(
        tmp_path, listing(7, namespace("a", 3)), Stream.of(("ADDED", namespace("b", 8)), then=Then.HANG), changes=2
    )
    assert played.changes == ["listed a", "put b"]
    assert played.asked == ["list", "7"]
    assert played.requests[1].query["allowWatchBookmarks"] == "true"


async def test_pages_are_put_together_before_anything_is_told(tmp_path: Path) -> None:
    first = listing(7, namespace("a", 3), **{"continue": "more"})
    played = await play(tmp_path, first, listing(7, namespace("b", 4)), changes=1)
    assert played.changes == ["listed a b"]
    assert [request.query.get("continue") for request in played.requests] == [None, "more"]


async def test_a_watch_that_ends_resumes_at_the_last_bookmark(tmp_path: Path) -> None:
    played = await play(
        tmp_path, listing(7), Stream.of(("ADDED", namespace("a", 8)), bookmark(90)), Stream.of(), requests=3
    )
    assert played.asked == ["list", "7", "90"]


async def test_a_deletion_is_told_with_the_uid_of_what_was_deleted(tmp_path: Path) -> None:
    played = await play(tmp_path, listing(7, namespace("a", 3)), Stream.of(("DELETED", namespace("a", 8))), changes=2)
    assert played.raw[1] == Gone(key_of(Namespace.from_dict(namespace("a", 3))), "u-a")


async def test_an_expired_version_in_the_middle_of_a_watch_makes_it_list_again(tmp_path: Path) -> None:
    steps = (listing(7, namespace("a", 3)), Stream.of(("ERROR", EXPIRED)), listing(20, namespace("b", 15)))
    played = await play(tmp_path, *steps, requests=4)
    assert played.changes == ["listed a", "listed b"]
    assert played.asked == ["list", "7", "list", "20"]


async def test_an_expired_version_as_the_answer_to_a_watch_makes_it_list_again(tmp_path: Path) -> None:
    played = await play(tmp_path, listing(7), Answer(EXPIRED, 410), listing(20), requests=4)
    assert played.asked == ["list", "7", "list", "20"]


async def test_another_error_inside_a_watch_keeps_the_version(tmp_path: Path) -> None:
    error = json.loads((RECORDED / "watch-error-event.ndjson").read_text())["object"]
    played = await play(tmp_path, listing(7), Stream.of(("ERROR", error)), requests=3)
    assert played.asked == ["list", "7", "7"]


async def test_a_cut_connection_resumes_after_the_last_event(tmp_path: Path) -> None:
    cut = Stream.of(("ADDED", namespace("a", 8)), then=Then.CUT)
    played = await play(tmp_path, listing(7), cut, requests=3)
    assert played.changes == ["listed", "put a"]
    assert played.asked == ["list", "7", "8"]


async def test_half_a_line_before_a_cut_is_not_an_event(tmp_path: Path) -> None:
    half = Stream.of(b'{"type":"DELETED","object":{"metadata":{"name":"a"', then=Then.CUT)
    played = await play(tmp_path, listing(7, namespace("a", 3)), half, requests=3)
    assert played.changes == ["listed a"]
    assert played.asked == ["list", "7", "7"]


async def test_a_silent_connection_is_given_up_and_tells_of_no_deletion(tmp_path: Path) -> None:
    played = await play(tmp_path, listing(7, namespace("a", 3)), Stream.of(then=Then.HANG), requests=3)
    assert played.changes == ["listed a"]
    assert played.asked == ["list", "7", "7"]


async def test_an_api_that_fails_every_list_after_the_first_tells_nothing(tmp_path: Path) -> None:
    failures = [Answer({"code": 500, "message": "etcdserver: no leader"}, 500)] * 4
    steps = (listing(7, namespace("a", 3)), Stream.of(("ERROR", EXPIRED)), *failures)
    played = await play(tmp_path, *steps, requests=6)
    assert played.changes == ["listed a"]


async def test_too_many_requests_waits_as_long_as_the_server_asks(tmp_path: Path) -> None:
    busy = Answer({"code": 429, "reason": "TooManyRequests"}, 429, {"Retry-After": "1"})
    played = await play(tmp_path, busy, listing(7), changes=1)
    assert played.requests[1].at - played.requests[0].at >= 1.0


async def test_repeated_failures_wait_longer_each_time_up_to_a_limit(tmp_path: Path) -> None:
    failures = [Answer(b"<html>bad gateway</html>", 502)] * 7
    played = await play(tmp_path, *failures, requests=7)
    pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(played.requests)]
    for pause, ceiling in zip(pauses, (0.01, 0.02, 0.04, 0.04, 0.04, 0.04), strict=True):
        assert pause >= ceiling / 2


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(tmp_path: Path) -> None:
    played = await play(tmp_path, listing(7), *[Stream.of(bookmark(8))] * 6, requests=7)
    assert played.requests[6].at - played.requests[1].at >= (0.01 + 0.02 + 0.04 + 0.04 + 0.04) / 2


async def test_an_event_that_comes_twice_is_told_twice(tmp_path: Path) -> None:
    twice = [("ADDED", namespace("a", 8))] * 2
    played = await play(tmp_path, listing(7), Stream.of(*twice, then=Then.HANG), changes=3)
    assert played.changes == ["listed", "put a", "put a"]


async def test_an_object_that_cannot_be_decoded_is_counted_and_passed_over(tmp_path: Path) -> None:
    events = Stream.of(("MODIFIED", undecodable("a", 8)), ("ADDED", namespace("b", 9)), then=Then.HANG)
    played = await play(tmp_path, listing(7, namespace("a", 3)), events, changes=2)
    assert played.changes == ["listed a", "put b"]
    assert played.statistics.undecodable == 1


async def test_an_object_without_a_name_is_counted_and_passed_over(tmp_path: Path) -> None:
    nameless = {"metadata": {"uid": "u"}}
    events = Stream.of(("MODIFIED", nameless), ("DELETED", nameless), ("ADDED", namespace("b", 9)), then=Then.HANG)
    played = await play(tmp_path, listing(7, namespace("a", 3), nameless), events, changes=2)
    assert played.changes == ["listed a", "put b"]
    assert played.statistics.undecodable == 3


async def test_a_deletion_is_told_even_if_the_object_cannot_be_decoded(tmp_path: Path) -> None:
    events = Stream.of(("DELETED", undecodable("a", 8)), then=Then.HANG)
    played = await play(tmp_path, listing(7, namespace("a", 3)), events, changes=2)
    assert played.changes == ["listed a", "gone a"]


async def test_one_bad_item_does_not_cost_the_list(tmp_path: Path) -> None:
    played = await play(tmp_path, listing(7, undecodable("a", 3), namespace("b", 4), 17), changes=1)
    assert played.changes == ["listed b"]
    assert played.statistics.undecodable == 2


async def test_a_list_says_of_what_it_cannot_read_that_it_exists(tmp_path: Path) -> None:
    no_metadata = {"metadata": {"name": "c", "uid": 7}}
    played = await play(tmp_path, listing(7, undecodable("a", 3), namespace("b", 4), no_metadata), changes=1)
    (listed,) = played.raw
    assert isinstance(listed, Listed)
    assert listed.unreadable == {ObjectKey("", "a"): "u-a", ObjectKey("", "c"): ""}


async def test_the_last_good_version_stands_for_an_object_that_became_undecodable(tmp_path: Path) -> None:
    steps = (listing(7, namespace("a", 3)), Stream.of(("ERROR", EXPIRED)), listing(20, undecodable("a", 15)))
    played = await play(tmp_path, *steps, changes=2)
    assert played.changes == ["listed a", "listed a"]


async def test_the_last_good_version_does_not_stand_for_another_object_of_that_name(tmp_path: Path) -> None:
    another = undecodable("a", 15, uid="other")
    steps = (listing(7, namespace("a", 3)), Stream.of(("ERROR", EXPIRED)), listing(20, another))
    played = await play(tmp_path, *steps, changes=2)
    assert played.changes == ["listed a", "listed"]
    assert isinstance(played.raw[1], Listed)
    assert played.raw[1].unreadable == {ObjectKey("", "a"): "other-a"}


@pytest.mark.parametrize(
    "line",
    [b"no json at all\n", b"[]\n", DEEP, b'{"type":"ADDED","object":1}\n'],
    ids=["no JSON", "a list", "too deep", "no object"],
)
async def test_a_line_that_is_no_event_makes_it_list_again(tmp_path: Path, line: bytes) -> None:
    played = await play(tmp_path, listing(7), Stream.of(line), listing(9), requests=4)
    assert played.asked == ["list", "7", "list", "9"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Pod, {"metadata": {"name": "x", "namespace": "t"}, "spec": {"containers": None}, "status": {}}),
        (Pod, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "ports": None}], "volumes": None}}),
        (EndpointSlice, {"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": None, "ports": None}),
    ],
)
async def test_null_for_a_required_list_is_an_empty_list(tmp_path: Path, kind: type[Resource], body: object) -> None:
    played = await play(tmp_path, listing(7, body), changes=1, kind=kind)
    assert played.changes == ["listed x"]


@pytest.mark.parametrize(
    ("recorded", "kind", "deleted"),
    [
        ("watch-namespaces.ndjson", Namespace, "tenant3"),
        ("watch-pods.ndjson", Pod, "hp"),
        ("watch-services.ndjson", Service, "web"),
        ("watch-endpointslices.ndjson", EndpointSlice, "web-x56nr"),
    ],
)
async def test_recorded_events_of_a_real_server_are_all_understood(
    tmp_path: Path, recorded: str, kind: type[Resource], deleted: str
) -> None:
    lines = (RECORDED / recorded).read_bytes().splitlines(keepends=True)
    last_bookmark = json.loads(lines[-1])["object"]["metadata"]["resourceVersion"]
    played = await play(tmp_path, listing(1), Stream.of(*lines), requests=3, kind=kind)
    assert len(played.changes) == 1 + sum(b'"type":"BOOKMARK"' not in line for line in lines)
    assert played.changes[-1] == f"gone {deleted}"
    assert played.asked == ["list", "1", last_bookmark]
    assert played.statistics.undecodable == 0


async def test_a_recorded_page_of_a_real_server_is_continued(tmp_path: Path) -> None:
    page = json.loads((RECORDED / "list-pods-limit1.json").read_text())
    played = await play(tmp_path, Answer(page), listing(420), changes=1, kind=Pod)
    assert played.changes == ["listed hp"]
    assert played.requests[1].query["continue"] == page["metadata"]["continue"]


async def test_an_answer_that_is_no_status_still_says_what_came(tmp_path: Path) -> None:
    message = await refusal(tmp_path, Answer(b"<html>bad gateway</html>", 502))
    assert "GET /api/v1/namespaces/a" in message
    assert "502" in message
    assert "<html>bad gateway" in message


async def test_a_call_without_an_answer_says_that_the_api_is_unavailable(tmp_path: Path) -> None:
    message = await refusal(tmp_path, Stream.of(then=Then.CUT), KubernetesUnavailable)
    assert "no answer to GET /api/v1/namespaces/a" in message


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubernetesError, match=r"cannot use the Kubernetes configuration of .*nowhere"):
        Kubernetes(str(tmp_path / "nowhere"))
