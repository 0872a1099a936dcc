"""The etcd store against a real etcd: what it reads and writes, and what it does when etcd is in trouble."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from k8sovs.etcd import (
    Changes,
    Compare,
    Delete,
    Etcd,
    EtcdConfig,
    EtcdError,
    EtcdPermissionDenied,
    EtcdUnavailable,
    KeyValue,
    LeaseLost,
    Listing,
    Put,
    absent,
    exists,
    unchanged,
)
from tests.support.etcd import EtcdServers

DEADLINE_S = 20.0
RENEWALS = "etcd_debugging_lease_renewed_total"  # of leases, in etcd's own count
Updates = AsyncIterator[Listing | Changes]


@pytest.fixture(scope="module")
def one_server() -> Iterator[EtcdServers]:
    with EtcdServers() as running:
        yield running


@pytest.fixture
def servers(one_server: EtcdServers) -> EtcdServers:
    """One server, without keys; whoever stops it starts it again."""
    one_server.clear()
    return one_server


@pytest.fixture(scope="module")
def three_servers() -> Iterator[EtcdServers]:
    with EtcdServers(members=3) as running:
        yield running


@pytest.fixture
def three(three_servers: EtcdServers) -> Iterator[EtcdServers]:
    """Three servers, without keys, any of which may be killed."""
    three_servers.clear()
    yield three_servers
    three_servers.recover()


@pytest.fixture
async def store(servers: EtcdServers) -> AsyncIterator[Etcd]:
    async with Etcd(EtcdConfig(servers.endpoints)) as opened:
        yield opened


@asynccontextmanager
async def watching(store: Etcd, *names: str) -> AsyncIterator[Updates]:
    """The updates of a watch. It asks for nothing while nobody asks for the next update."""
    async with aclosing(store.watch(*names)) as updates:
        yield updates


async def following(updates: Updates) -> Listing | Changes:
    return await asyncio.wait_for(anext(updates), DEADLINE_S)


async def changes(updates: Updates) -> Changes:
    update = await following(updates)
    assert isinstance(update, Changes), f"listed again: {update}"
    return update


async def listing(updates: Updates) -> Listing:
    update = await following(updates)
    assert isinstance(update, Listing), f"not a listing: {update}"
    return update


def values(items: Iterable[KeyValue]) -> dict[str, bytes]:
    return {item.key: item.value for item in items}


async def put(store: Etcd, **keys: str) -> int:
    """Write keys of the folder /a/; the revision at which that was done."""
    return (await store.transact([], [Put(f"/a/{key}", value.encode()) for key, value in keys.items()])).revision


# --- reading and writing


async def test_a_key_that_does_not_exist_is_none(store: Etcd) -> None:
    assert await store.get("/a/b") is None


async def test_a_key_written_by_etcdctl_is_read_with_its_revisions(servers: EtcdServers, store: Etcd) -> None:
    servers.put("/a/b", "one")
    servers.put("/a/b", "two")
    found = await store.get("/a/b")
    assert found is not None
    assert (found.value, found.mod_revision - found.create_revision, found.lease) == (b"two", 1, 0)


async def test_etcdctl_reads_what_a_transaction_wrote(servers: EtcdServers, store: Etcd) -> None:
    await put(store, x="1")
    assert servers.etcdctl("get", "/a/x") == "/a/x\n1\n"


async def test_a_listing_of_a_folder_leaves_its_neighbours_out(servers: EtcdServers, store: Etcd) -> None:
    for key in ("/a", "/a/", "/a/x", "/a/x/y", "/a0", "/ab", "/b"):
        servers.put(key, "v")
    assert set((await store.list("/a/")).items) == {"/a/", "/a/x", "/a/x/y"}


async def test_a_listing_takes_folders_and_single_keys(servers: EtcdServers, store: Etcd) -> None:
    for key in ("/a/x", "/b/x", "/config", "/configuration"):
        servers.put(key, "v")
    assert set((await store.list("/a/", "/config", "/nothing")).items) == {"/a/x", "/config"}


async def test_a_listing_of_many_pages_is_of_one_revision(store: Etcd) -> None:
    keys = [f"/a/{number:05}" for number in range(2500)]
    for start in range(0, len(keys), 100):
        await store.transact([], [Put(key, b"") for key in keys[start : start + 100]])

    async def carry_token(*, places: tuple[str, str]) -> None:
        while True:  # exactly one of the two keys, far apart, exists at any revision
            for place, other in (places, places[::-1]):
                await store.transact([], [Put(place, b"token"), Delete(other)])

    carrier = asyncio.create_task(carry_token(places=("/a/!first", "/a/~last")))
    try:
        for _ in range(10):
            found = (await store.list("/a/")).items
            assert set(keys) <= set(found)
            assert len(found) <= len(keys) + 1
    finally:
        carrier.cancel()
        await asyncio.wait([carrier])


async def test_a_key_that_is_not_utf_8_can_be_listed_and_deleted(servers: EtcdServers, store: Etcd) -> None:
    await store.transact([], [Put("/a/\udcff\udcfe", b"")])
    (key,) = (await store.list("/a/")).items
    await store.transact([exists(key)], [Delete(key)])
    assert servers.etcdctl("get", "/a/", "--prefix") == ""


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (lambda _: exists("/a/there"), True),
        (lambda _: exists("/a/missing"), False),
        (lambda _: absent("/a/missing"), True),
        (lambda _: absent("/a/there"), False),
        (lambda revision: unchanged("/a/there", revision), True),
        (lambda revision: unchanged("/a/there", revision - 1), False),
        (lambda _: unchanged("/a/missing", 0), True),
        (lambda _: unchanged("/a/there", 0), False),
    ],
)
async def test_a_transaction_does_what_its_comparison_says(
    store: Etcd, compare: Callable[[int], Compare], holds: bool
) -> None:
    revision = await put(store, there="")
    result = await store.transact([compare(revision)], [Put("/yes", b"")], [Put("/no", b"")])
    assert result.succeeded is holds
    assert set((await store.list("/yes", "/no")).items) == {"/yes" if holds else "/no"}


async def test_of_concurrent_edits_of_one_revision_one_succeeds(store: Etcd) -> None:
    revision = await put(store, x="0")
    results = await asyncio.gather(
        *(store.transact([unchanged("/a/x", revision)], [Put("/a/x", b"%d" % number)]) for number in range(20))
    )
    assert sum(result.succeeded for result in results) == 1


async def test_a_transaction_that_etcd_refuses_is_an_error_with_its_reason(store: Etcd) -> None:
    with pytest.raises(EtcdError, match="duplicate key"):
        await store.transact([], [Put("/a/x", b"1"), Put("/a/x", b"2")])


# --- watching


async def test_a_watch_begins_with_what_there_is_and_goes_on_with_what_changes(store: Etcd) -> None:
    await put(store, x="1", y="1", z="1")
    async with watching(store, "/a/") as updates:
        assert values((await listing(updates)).items.values()) == dict.fromkeys(("/a/x", "/a/y", "/a/z"), b"1")
        revision = (await store.transact([], [Put("/a/x", b"2"), Delete("/a/y"), Put("/other", b"")])).revision
        update = await changes(updates)
        assert (update.revision, values(update.puts), update.deletes) == (revision, {"/a/x": b"2"}, ("/a/y",))


async def test_a_key_that_changed_often_comes_in_its_last_state_only(store: Etcd) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        for value in ("1", "2", "3"):
            await put(store, x=value, y=value)
        await store.transact([], [Delete("/a/y")])
        update = await changes(updates)
        assert (values(update.puts), update.deletes) == ({"/a/x": b"3"}, ("/a/y",))


async def test_a_watch_of_several_names_sees_all_of_them_and_nothing_else(store: Etcd) -> None:
    async with watching(store, "/config", "/a/") as updates:
        await listing(updates)
        for key in ("/configuration", "/b/x", "/config", "/a/x"):
            await store.transact([], [Put(key, b"")])
        seen = [item.key for _ in range(2) for item in (await changes(updates)).puts]
        assert sorted(seen) == ["/a/x", "/config"]


async def test_more_changes_than_fit_in_a_message_all_arrive(store: Etcd) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        revision = 0
        for number in range(40):
            revision = (await store.transact([], [Put(f"/a/{number}", bytes(200_000))])).revision
        update = await changes(updates)
        assert len(update.puts) == 40
        assert update.revision == revision


async def test_a_watch_goes_on_behind_the_last_change_when_etcd_has_restarted(
    servers: EtcdServers, store: Etcd
) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        await put(store, x="1")
        await changes(updates)
        servers.restart()
        servers.put("/a/y", "2")
        assert values((await changes(updates)).puts) == {"/a/y": b"2"}


async def test_an_outage_is_logged_once_and_its_end_too(servers: EtcdServers, store: Etcd) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        servers.kill()
        with structlog.testing.capture_logs() as lines:
            waiting = asyncio.ensure_future(anext(updates))
            done, _ = await asyncio.wait([waiting], timeout=1)  # long enough for many attempts
            assert not done
            servers.start()
            servers.put("/a/x", "1")
            update = await asyncio.wait_for(waiting, DEADLINE_S)
        assert isinstance(update, Changes)
        assert [line["event"] for line in lines] == ["etcd-watch-interrupted", "etcd-watch-resumed"]


async def test_a_watch_begun_while_etcd_is_away_lists_when_it_is_back(servers: EtcdServers, store: Etcd) -> None:
    servers.put("/a/x", "1")
    servers.kill()
    async with watching(store, "/a/") as updates:
        waiting = asyncio.ensure_future(anext(updates))
        with pytest.raises(EtcdUnavailable):
            await store.get("/a/x")
        servers.start()
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE_S), Listing)


async def test_a_watch_lists_again_when_the_changes_it_missed_are_compacted(servers: EtcdServers, store: Etcd) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        await put(store, x="1", y="1")
        await changes(updates)
        servers.restart()
        await asyncio.to_thread(servers.put, "/a/x", "2")
        servers.etcdctl("del", "/a/y")
        servers.compact()
        assert values((await listing(updates)).items.values()) == {"/a/x": b"2"}
        await put(store, z="3")
        assert values((await changes(updates)).puts) == {"/a/z": b"3"}


async def test_a_watch_lists_again_when_the_listing_is_compacted_before_it_has_begun(
    servers: EtcdServers, store: Etcd
) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        await put(store, x="1")
        await put(store, x="2")
        servers.compact()
        assert values((await listing(updates)).items.values()) == {"/a/x": b"2"}


async def test_a_watch_lists_again_when_the_store_has_begun_anew(servers: EtcdServers, store: Etcd) -> None:
    async with watching(store, "/a/") as updates:
        await listing(updates)
        for value in "123456":
            await put(store, x=value)
            await changes(updates)
        servers.wipe()
        servers.put("/a/new", "1")
        assert values((await listing(updates)).items.values()) == {"/a/new": b"1"}


async def test_a_quiet_watch_is_not_taken_for_a_dead_one(servers: EtcdServers) -> None:
    streams = 'grpc_server_started_total{grpc_method="Watch"'
    async with Etcd(EtcdConfig(servers.endpoints), silence=0.05) as store, watching(store, "/a/") as updates:
        await listing(updates)
        opened_before = servers.metric(streams)
        waiting = asyncio.ensure_future(anext(updates))
        done, _ = await asyncio.wait([waiting], timeout=1)  # twenty silences, each broken by an answer
        assert not done
        servers.put("/a/x", "1")
        await asyncio.wait_for(waiting, DEADLINE_S)
        assert servers.metric(streams) - opened_before == 1


async def test_a_watch_leaves_a_server_that_is_silent(three: EtcdServers) -> None:
    config = EtcdConfig(three.endpoints)
    async with Etcd(config, timeout=1, silence=0.2) as store, watching(store, "/a/") as updates:
        await listing(updates)
        with three.frozen(0):
            three.wait_healthy()
            three.put("/a/x", "1")
            assert values((await changes(updates)).puts) == {"/a/x": b"1"}


async def test_who_follows_a_watch_through_all_trouble_knows_what_is_in_the_store(three: EtcdServers) -> None:
    chance = random.Random(4711)
    known: dict[str, bytes] = {}

    async def follow(store: Etcd) -> None:
        async with watching(store, "/a/", "/b/") as updates:
            async for update in updates:
                if isinstance(update, Listing):
                    known.clear()
                    known.update(values(update.items.values()))
                else:
                    known.update(values(update.puts))
                    for key in update.deletes:
                        known.pop(key, None)
                if "/a/end" in known and "/b/end" in known:
                    return

    async def write(store: Etcd) -> None:
        for number in itertools.count():
            key = f"/{chance.choice('ab')}/{chance.randrange(20)}"
            with suppress(EtcdUnavailable):
                await store.transact([], [chance.choice((Put(key, b"%d" % number), Delete(key)))])
            await asyncio.sleep(0.005)

    async def trouble() -> None:
        for member in (0, 1, 2, 0):
            await asyncio.to_thread(three.kill, member)
            await asyncio.to_thread(three.wait_healthy)
            await asyncio.to_thread(three.compact)
            three.recover()

    config = EtcdConfig(three.endpoints)
    async with Etcd(config, timeout=2, silence=0.5) as follower, Etcd(config, timeout=2) as writer:
        following = asyncio.create_task(follow(follower))
        writing = asyncio.create_task(write(writer))
        async with asyncio.timeout(2 * DEADLINE_S):
            await trouble()
            writing.cancel()
            await asyncio.wait([writing])
            await writer.transact([], [Put("/a/end", b""), Put("/b/end", b"")])
            await following
        assert known == values((await writer.list("/a/", "/b/")).items.values())


async def test_a_watch_that_is_closed_leaves_nothing_behind(store: Etcd) -> None:
    before = asyncio.all_tasks()
    async with watching(store, "/a/") as updates:
        await listing(updates)
        waiting = asyncio.ensure_future(anext(updates))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        waiting.cancel()
        await asyncio.wait([waiting])
    assert asyncio.all_tasks() == before


# --- several servers, and servers that do not answer


async def test_calls_pass_over_a_server_that_is_down(three: EtcdServers) -> None:
    three.kill(0)
    three.wait_healthy()
    async with Etcd(EtcdConfig(three.endpoints)) as store:
        revision = await put(store, x="1")
        assert (await store.transact([unchanged("/a/x", revision)], [Put("/a/x", b"2")])).succeeded


async def test_a_watch_goes_on_at_another_server_when_its_own_dies(three: EtcdServers) -> None:
    async with Etcd(EtcdConfig(three.endpoints)) as store, watching(store, "/a/") as updates:
        await listing(updates)
        await put(store, x="1")
        await changes(updates)
        three.kill(0)
        three.wait_healthy()
        three.put("/a/x", "2")
        assert values((await changes(updates)).puts) == {"/a/x": b"2"}


async def test_a_call_that_nobody_answers_ends_at_its_deadline(servers: EtcdServers) -> None:
    async with Etcd(EtcdConfig(servers.endpoints), timeout=0.3) as store:
        await store.get("/a/x")
        with servers.frozen():
            started = time.monotonic()
            with pytest.raises(EtcdUnavailable, match="no answer within"):
                await store.get("/a/x")
            assert time.monotonic() - started < 2


async def test_after_a_call_that_was_not_answered_the_next_goes_to_another_server(three: EtcdServers) -> None:
    async with Etcd(EtcdConfig(three.endpoints), timeout=1) as store:
        await store.get("/a/x")
        with three.frozen(0):
            three.wait_healthy()
            with pytest.raises(EtcdUnavailable):
                await store.get("/a/x")
            assert await put(store, x="1")


async def test_a_server_without_a_majority_is_unavailable(three: EtcdServers) -> None:
    three.kill(1)
    three.kill(2)
    async with Etcd(EtcdConfig(three.endpoints), timeout=1) as store:
        with pytest.raises(EtcdUnavailable):
            await store.get("/a/x")


# --- TLS and users


@pytest.fixture(scope="module")
def tls() -> Iterator[EtcdServers]:
    with EtcdServers(tls=True) as running:
        yield running


def tls_config(servers: EtcdServers) -> EtcdConfig:
    files = servers.certificates
    assert files is not None
    return EtcdConfig(servers.endpoints, ca=files.ca, cert=files.client, key=files.client_key)


async def test_a_client_certificate_opens_an_etcd_that_asks_for_one(tls: EtcdServers) -> None:
    async with Etcd(tls_config(tls)) as store:
        assert await put(store, x="1")


async def test_without_a_client_certificate_such_an_etcd_is_unavailable(tls: EtcdServers) -> None:
    async with Etcd(replace(tls_config(tls), cert=None, key=None), timeout=2) as store:
        with pytest.raises(EtcdUnavailable):
            await store.get("/a/x")


async def test_a_server_whose_certificate_another_authority_signed_is_not_trusted(
    tls: EtcdServers, tmp_path: Path
) -> None:
    config = tls_config(tls)
    with EtcdServers(tls=True) as other:
        assert other.certificates is not None
        async with Etcd(replace(config, ca=other.certificates.ca), timeout=2) as store:
            with pytest.raises(EtcdUnavailable):
                await store.get("/a/x")


async def test_a_certificate_that_cannot_be_read_is_named(tls: EtcdServers) -> None:
    with pytest.raises(EtcdError, match="/missing"):
        async with Etcd(replace(tls_config(tls), ca=Path("/missing"))):
            pass


@pytest.fixture
def guarded() -> Iterator[EtcdServers]:
    """An etcd with a user `agent`, password `secret`, who reads /a/ and writes /a/w/."""
    with EtcdServers() as running:
        running.enable_users(agent=("secret", "/a/", "/a/w/"))
        yield running


def user_config(servers: EtcdServers, password: str = "secret") -> EtcdConfig:
    return EtcdConfig(servers.endpoints, user="agent", password=password)


async def test_a_user_may_do_what_its_role_may(guarded: EtcdServers) -> None:
    async with Etcd(user_config(guarded)) as store:
        await store.list("/a/")
        assert (await store.transact([absent("/a/w/x")], [Put("/a/w/x", b"1")])).succeeded
        with pytest.raises(EtcdPermissionDenied, match="'agent'"):
            await store.transact([], [Put("/a/x", b"1")])
        with pytest.raises(EtcdPermissionDenied):
            await store.get("/b/x")


async def test_a_wrong_password_is_told_from_an_etcd_that_is_away(guarded: EtcdServers) -> None:
    async with Etcd(user_config(guarded, "wrong")) as store:
        with pytest.raises(EtcdPermissionDenied, match="authentication failed"):
            await store.get("/a/x")


async def test_without_a_user_an_etcd_with_users_denies(guarded: EtcdServers) -> None:
    async with Etcd(EtcdConfig(guarded.endpoints)) as store:
        with pytest.raises(EtcdPermissionDenied):
            await store.get("/a/x")


async def test_a_user_serves_an_etcd_without_users_too() -> None:
    with EtcdServers() as servers:
        async with Etcd(user_config(servers)) as store:
            assert await store.get("/a/x") is None
            servers.enable_users(agent=("secret", "/a/", "/a/w/"))
            assert await store.get("/a/x") is None


async def test_a_token_that_etcd_has_forgotten_is_renewed(guarded: EtcdServers) -> None:
    async with Etcd(user_config(guarded)) as store, watching(store, "/a/") as updates:
        await listing(updates)
        await store.transact([], [Put("/a/w/x", b"1")])
        await changes(updates)
        guarded.restart()  # tokens live in etcd's memory
        assert values((await store.list("/a/")).items.values()) == {"/a/w/x": b"1"}
        guarded.restart()
        guarded.put("/a/x", "2")
        assert values((await changes(updates)).puts) == {"/a/x": b"2"}  # and a watch finds out by itself


async def test_a_watch_that_is_denied_waits_until_it_is_granted(guarded: EtcdServers) -> None:
    async with Etcd(user_config(guarded)) as store, watching(store, "/b/") as updates:
        waiting = asyncio.ensure_future(anext(updates))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        guarded.etcdctl("role", "grant-permission", "agent", "read", "/b/", "--prefix")
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE_S), Listing)


# --- leases


async def test_a_lease_that_is_kept_outlives_its_time(store: Etcd) -> None:
    lease = await store.grant_lease(1)
    await store.transact([], [Put("/a/x", b"", lease)])
    keeping = asyncio.create_task(store.keep_lease(lease))
    done, _ = await asyncio.wait([keeping], timeout=2)
    assert not done
    found = await store.get("/a/x")
    assert found is not None
    assert found.lease == lease
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_a_lease_that_is_not_kept_takes_its_keys_along(store: Etcd) -> None:
    lease = await store.grant_lease(1)
    await store.transact([], [Put("/a/x", b"", lease)])
    async with watching(store, "/a/") as updates:
        await listing(updates)
        assert (await changes(updates)).deletes == ("/a/x",)


async def test_revoking_a_lease_deletes_its_keys_and_ends_its_keeping(store: Etcd) -> None:
    lease = await store.grant_lease(2)
    await store.transact([], [Put("/a/x", b"", lease)])
    keeping = asyncio.create_task(store.keep_lease(lease))
    await store.revoke_lease(lease)
    assert await store.get("/a/x") is None
    with pytest.raises(LeaseLost, match="revoked"):
        await asyncio.wait_for(keeping, DEADLINE_S)


async def test_a_write_on_a_lease_that_is_gone_says_so(store: Etcd) -> None:
    lease = await store.grant_lease(2)
    await store.revoke_lease(lease)
    with pytest.raises(LeaseLost):
        await store.transact([], [Put("/a/x", b"", lease)])


async def renewal(servers: EtcdServers, renewals_before: float) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while servers.metric(RENEWALS) <= renewals_before:  # noqa: ASYNC110 - nothing tells when a counter rises
            await asyncio.sleep(0.02)


async def test_a_lease_counts_as_lost_before_its_time_is_up_when_etcd_is_silent(
    servers: EtcdServers, store: Etcd
) -> None:
    renewals = servers.metric(RENEWALS)
    lease = await store.grant_lease(2)
    keeping = asyncio.create_task(store.keep_lease(lease))
    await renewal(servers, renewals)
    with servers.frozen():
        started = time.monotonic()
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(keeping, DEADLINE_S)
        assert time.monotonic() - started < 2.5


async def test_a_lease_is_kept_through_a_restart_of_etcd(servers: EtcdServers, store: Etcd) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Put("/a/x", b"", lease)])
    keeping = asyncio.create_task(store.keep_lease(lease))
    servers.restart()
    await renewal(servers, renewals_before=0)  # the counter begins again, too
    assert not keeping.done()
    assert await store.get("/a/x")
    keeping.cancel()
    await asyncio.wait([keeping])
