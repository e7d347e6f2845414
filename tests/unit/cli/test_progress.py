"""Progress: plain lines where there is no terminal."""

from __future__ import annotations

import sys

import pytest

from gpukm.cli._progress import Bars, Lines, reporter


def test_without_a_terminal_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(reporter(verbose=True), Lines)
    progress = Lines(0.0)
    progress.stage("reading", 2_000_000)
    progress.seen(500_000)
    progress.stage("iterating", 300, "iterations")
    progress.seen(10_000)
    progress.advance(1, "inertia 12")
    progress.close()
    found = capsys.readouterr()
    assert found.out == "" and "\x1b" not in found.err
    lines = found.err.splitlines()
    assert lines[0] == "reading ..."
    assert lines[1].startswith("reading: 500k/2M rows, ") and "rows/s" in lines[1] and lines[1].endswith("left")
    assert "inertia 12" in lines[-1] and "at most" in lines[-1]


def test_lines_are_not_printed_too_often(capsys: pytest.CaptureFixture[str]) -> None:
    progress = reporter(verbose=False)
    progress.stage("reading", 100)
    for _ in range(100):
        progress.seen(1)
    assert capsys.readouterr().err == "reading ...\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_for_those_who_ask(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    progress = reporter(verbose=verbose)
    progress.detail("iteration 1: without bounds, 100.0% scored")
    assert capsys.readouterr().err == ("iteration 1: without bounds, 100.0% scored\n" if verbose else "")


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    bars = reporter(verbose=False)
    assert isinstance(bars, Bars)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter(verbose=False), Lines)


def test_bars_can_be_driven_and_closed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.stage("reading", 10)
    bars.seen(5)
    bars.stage("iterating", 3, "iterations")
    bars.seen(10)
    bars.advance(1, "inertia 1")
    bars.close()
    bars.close()
    assert capsys.readouterr().out == ""
