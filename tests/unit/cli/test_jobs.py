"""``gpukm submit`` and ``gpukm jobs``: options, refusals, and what the store alone tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from gpukm.cli.main import app, main
from gpukm.executors.dask import schedulers
from gpukm.pipeline.jobs.events import Kind
from gpukm.pipeline.jobs.job import Job, Jobs, Request
from gpukm.pipeline.jobs.log import LogWriter
from gpukm.snapshots import Store

REQUEST = Request("/data/x.npy", "x", {"n_clusters": 5, "columns": ["a", "b"]})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    store = Store.open("gpukm-store", create=True)
    store.make_writable()
    return store


def make(store: Store, name: str, *kinds: Kind, **facts: Any) -> Job:
    """A job of which this has happened; the last gets the facts."""
    job = Jobs(store).named(name, REQUEST)
    job.create(REQUEST)
    attempt = None
    for i, kind in enumerate(kinds):
        own: dict[str, Any] = {"beat_seconds": 0.0} if kind is Kind.SUBMITTED else {}
        own |= {"submission": 1, "worker": "tcp://a:1", "host": "a"} if kind is Kind.STARTED else {}
        told = None if kind in (Kind.SUBMITTED, Kind.STARTED, Kind.CANCELLED) else attempt
        event = job.events.append(kind, own | (facts if i == len(kinds) - 1 else {}), told)
        attempt = event.number if kind is Kind.STARTED else attempt
    return job


FINISHED = (Kind.SUBMITTED, Kind.STARTED, Kind.FINISHED)
RESULT = {"snapshot": {"number": 2, "id": "ab" * 32}, "iteration": 17, "inertia": 2.5, "resumed_from_iteration": 4}


def data(capsys: pytest.CaptureFixture[str]) -> Any:
    """What was printed as JSON."""
    return json.loads(capsys.readouterr().out)["data"]


def test_submit_train_has_the_options_of_train() -> None:
    group: Any = typer.main.get_command(app)
    theirs = {p.name: p for p in group.commands["train"].params}
    ours = {p.name: p for p in group.commands["submit"].commands["train"].params}
    assert set(ours) - set(theirs) == {"job", "again"} and set(theirs) <= set(ours)
    for name, parameter in theirs.items():
        other = ours[name]
        assert (other.opts, other.help, other.default) == (parameter.opts, parameter.help, parameter.default)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "--resume is not needed"),
        (["--report", "x.html"], "gpukm report MODEL"),
        (["--group-by", "a"], "one process"),
        (["--small-groups", "skip"], "--group-by"),
        (["--checkpoint", "here"], "keeps its checkpoint"),
        (["--cluster", "local:2"], "ends with this command"),
        (["--algorithm", "minibatch"], "minibatch"),
    ],
)
def test_what_does_not_fit_a_job_is_refused(
    options: list[str], words: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["submit", "train", "x.npy", "-k", "3", "--cluster", "tcp://127.0.0.1:1", *options]
    assert main(given) == 2
    assert words in capsys.readouterr().err
    assert not Jobs(store).all()


def test_without_a_cluster_it_says_what_to_give(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "train", "x.npy", "-k", "3", "--json"]) == 2
    assert "--cluster tcp://host:port" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_store_without_jobs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list"]) == 0
    assert "gpukm submit train" in capsys.readouterr().out
    for command in ("show", "logs", "wait", "cancel"):
        assert main(["jobs", command, "nothing"]) == 2
        assert "no job 'nothing'" in capsys.readouterr().err


def test_list(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, "one", *FINISHED, **RESULT)
    make(store, "two", Kind.SUBMITTED, Kind.STARTED)
    assert main(["jobs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["JOB", "MODEL", "STATE", "ITERATION", "INERTIA", "AGE", "SNAPSHOT"]
    assert lines[1].split()[:3] == ["two", "x", "lost"]  # it beats every 0 seconds
    assert lines[2].split()[:5] == ["one", "x", "finished", "17", "2.5"] and lines[2].endswith("#2  abababababab")
    assert main(["jobs", "list", "x", "--json"]) == 0
    assert [job["id"] for job in data(capsys)["jobs"]] == ["two", "one"]
    assert main(["jobs", "list", "y", "--json"]) == 0
    assert data(capsys)["jobs"] == []


def test_a_damaged_job_does_not_hide_the_others(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, "one", *FINISHED, **RESULT)
    job = make(store, "two", Kind.SUBMITTED)
    store.files.remove(f"{job.folder}/request.json")
    store.files.create(f"{job.folder}/request.json", [b"{"])
    assert main(["jobs", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [job["id"] for job in found["data"]["jobs"]] == ["one"] and "two" in found["warnings"][0]
    assert main(["jobs", "show", "two"]) == 4


def test_show(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, "one", *FINISHED, **RESULT)
    assert main(["jobs", "show", "o", "--json"]) == 0
    found = data(capsys)
    assert found["state"] == "finished" and found["snapshot"] == RESULT["snapshot"]
    assert [event["event"] for event in found["events"]] == ["submitted", "started", "finished"]
    assert found["settings"] == {"n_clusters": 5, "columns": ["a", "b"]}
    assert main(["jobs", "show", "one"]) == 0
    text = capsys.readouterr().out
    assert "tcp://a:1 on a, attempt 1" in text and "settings.columns" in text and "from iteration 4" in text


@pytest.mark.parametrize(
    ("kinds", "facts", "code"),
    [
        (FINISHED, RESULT, 0),
        ((Kind.SUBMITTED, Kind.STARTED, Kind.FAILED), {"error": "DataError: no rows"}, 1),
        ((Kind.SUBMITTED, Kind.CANCELLED), {}, 1),
        ((Kind.SUBMITTED, Kind.STARTED), {}, 6),
        ((Kind.SUBMITTED,), {}, 3),
    ],
)
def test_wait_tells_by_its_exit_code(
    kinds: tuple[Kind, ...], facts: dict[str, Any], code: int, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    make(store, "one", *kinds, **facts)
    assert main(["jobs", "wait", "one", "--timeout", "0.1", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] == (code == 0) and found["data"]["id"] == "one"
    assert found["data"]["error"] == facts.get("error")


def test_logs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = make(store, "one", *FINISHED, **RESULT)
    assert main(["jobs", "logs", "one"]) == 0
    assert "said nothing" in capsys.readouterr().out
    log = LogWriter(store.files, job.log_folder, 2)
    log.add("iteration", iteration=3, inertia=2.5)
    log.add("few rows", "warning")
    log.flush()
    for more in ([], ["--follow"]):
        assert main(["jobs", "logs", "one", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("info    iteration iteration=3 inertia=2.5")
        assert lines[1].endswith("warning few rows")
    assert main(["jobs", "logs", "one", "--json"]) == 0
    assert [record["text"] for record in data(capsys)["records"]] == ["iteration", "few rows"]
    assert main(["jobs", "logs", "one", "--json", "--follow"]) == 2


def test_following_a_lost_job_ends(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, "one", Kind.SUBMITTED, Kind.STARTED)
    assert main(["jobs", "logs", "one", "--follow"]) == 6
    assert "submit the same again" in capsys.readouterr().err


def test_cancel(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CONNECT_SECONDS", 0.1)
    job = make(store, "one", Kind.SUBMITTED)
    assert main(["jobs", "cancel", "one", "--dry-run", "--json"]) == 0
    assert data(capsys)["state"] == "queued" and job.status().state == "queued"
    for _ in range(2):
        assert main(["jobs", "cancel", "one", "--json"]) == 0
        assert data(capsys)["state"] == "cancelled"
    make(store, "two", *FINISHED, **RESULT)
    assert main(["jobs", "cancel", "two"]) == 5
    assert "finished already" in capsys.readouterr().err
    make(store, "three", Kind.SUBMITTED, Kind.STARTED)
    # What is in the store counts; that the cluster is gone is said.
    assert main(["jobs", "cancel", "three", "--cluster", "file:nothing.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["state"] == "cancelled" and "could not be told" in found["warnings"][0]
