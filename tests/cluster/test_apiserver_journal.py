"""The lab's API server when it is killed: the next one has its objects."""

from __future__ import annotations

from pathlib import Path

from tests.support.apiserver import ApiServerProcess

FOUND = 200


def test_a_server_that_was_killed_comes_back_with_its_objects(tmp_path: Path) -> None:
    with ApiServerProcess(tmp_path, "--journal", str(tmp_path / "journal")) as api:
        for name in ("a", "b", "c"):
            api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        merge = {"Content-Type": "application/merge-patch+json"}
        api.request("PATCH", "/api/v1/namespaces/b", {"metadata": {"labels": {"x": "y"}}}, **merge)
        api.request("DELETE", "/api/v1/namespaces/c")
        _, before = api.request("GET", "/api/v1/namespaces")
        assert [one["metadata"]["name"] for one in before["items"]] == ["a", "b", "default", "kube-system"]
        for _ in range(2):
            api.kill()
            api.start()
            _, after = api.request("GET", "/api/v1/namespaces")
            assert after["items"] == before["items"]
            assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with ApiServerProcess(tmp_path, "--journal", str(journal)) as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "a"}})
        api.kill()
        with journal.open("ab") as file:
            file.write(b'{"resource": "/namespaces", "gone": fal')
        api.start()
        assert api.request("GET", "/api/v1/namespaces/a")[0] == FOUND
