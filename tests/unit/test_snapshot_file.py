from pathlib import Path

import pytest

from agent.snapshot_file import SavedRecords, SnapshotFile

SAVED = SavedRecords(42, {"/p/config": '{"Name":"k8ssdn"}', "/p/k8ssdn/vnids/ü": "{}"})


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = SnapshotFile(tmp_path / "state" / "cluster.json")
    file.save(SAVED)
    assert file.load() == SAVED


def test_a_later_save_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    file = SnapshotFile(tmp_path / "cluster.json")
    file.save(SAVED)
    file.save(SavedRecords(43, {}))
    assert file.load() == SavedRecords(43, {})
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def test_a_reader_never_sees_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    file = SnapshotFile(path)
    file.save(SAVED)
    before = path.open()  # a reader that has it open keeps the old one, whole
    file.save(SavedRecords(43, {}))
    with before:
        assert '"revision": 42' in before.read()


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert SnapshotFile(tmp_path / "cluster.json").load() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"format": 1',
        b'{"format": 2, "revision": 1, "records": {}}',
        b'{"format": 1, "records": {}}',
        b'{"format": 1, "revision": "x", "records": {}}',
        b'{"format": 1, "revision": 1, "records": []}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cluster.json"
    path.write_bytes(content)
    assert SnapshotFile(path).load() is None
