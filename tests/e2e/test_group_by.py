"""One model for each group, through the program."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Gpukm, example

TRAIN = ("train", "flights.parquet", "-k", "4", "--exclude", "month", "--group-by", "carrier")
MORE = ("--weight-column", "weight", "--step", "standardize", "--null-policy", "drop")


def test_each_group_has_the_model_of_its_rows_alone(gpukm: Gpukm, tmp_path: Path) -> None:
    table = example(900)
    pq.write_table(table, tmp_path / "flights.parquet", row_group_size=100)
    done = gpukm(*TRAIN, *MORE, "--json")
    assert done.code == 0, done.err
    groups = {group["value"]: group for group in done.data["groups"]}
    assert sorted(groups) == ["AA", "B6", "UA"] and done.data["group_by"] == "carrier"
    assert len({group["id"] for group in groups.values()}) == 3
    for value, group in list(groups.items())[1:]:
        assert (group["model"], group["number"], group["n_rows"]) == (f"flights.{value}", 1, 300)
        pq.write_table(table.filter(pc.equal(table["carrier"], value)), tmp_path / "alone.parquet")
        alone = gpukm("train", "alone.parquet", "-k", "4", "--exclude", "month,carrier", *MORE, "--json")
        assert alone.data["id"] == group["id"], value
    shown = gpukm("snapshots", "show", "flights.AA", "--json").data["provenance"]
    assert shown["group"] == {"column": "carrier", "value": "AA"} and shown["source"].endswith("flights.parquet")
    again = gpukm(*TRAIN, *MORE, "--json", "--backend", "numpy").data["groups"]
    assert [(g["id"], g["number"]) for g in again] == [(g["id"], 2) for g in groups.values()]
    text = gpukm(*TRAIN, *MORE)
    assert text.out.startswith("CARRIER") and "3 models trained" in text.out


def test_small_groups_are_an_error_or_are_skipped(gpukm: Gpukm, tmp_path: Path) -> None:
    carriers = pa.array(["big one"] * 90 + ["small"] * 3 + [None] * 7)
    pq.write_table(pa.table({"carrier": carriers, "a": [float(i % 11) for i in range(100)]}), tmp_path / "f.parquet")
    train = ("train", "f.parquet", "-k", "4", "--group-by", "carrier", "--null-policy", "drop", "--json")
    done = gpukm(*train)
    assert done.code == 2 and "1 of 2 groups" in done.err and "--small-groups skip" in done.err
    assert not (tmp_path / "gpukm-store").exists()
    done = gpukm(*train, "--small-groups", "skip")
    assert done.code == 0 and "1 groups with fewer rows" in done.err and "7 rows without a value" in done.err
    found = done.data["groups"]
    assert [g["skipped"] is None for g in found] == [True, False] and found[0]["model"] == "f.big_20one"
    done = gpukm("train", "f.parquet", "-k", "4", "--group-by", "carrier", "--small-groups", "skip")
    assert done.code == 2 and "7 rows have no value" in done.err


def test_a_dry_run_lists_groups_and_writes_nothing(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    done = gpukm(*TRAIN, "--dry-run", "--json")
    assert done.code == 0 and len(done.data["groups"]) == 3 and "id" not in done.data["groups"][0]
    assert not (tmp_path / "gpukm-store").exists()


@pytest.mark.parametrize(
    "more, words",
    [
        (("--checkpoint", "c"), "--checkpoint saves the state of one fit"),
        (("--resume",), "--resume goes on with one fit"),
        (("--report", "r.html"), "gpukm report MODEL"),
        (("--columns", "delay,carrier"), "group column"),
        (("--small-groups", "maybe"), "expected one of error, skip"),
        (("--memory-limit", "1.1MB"), "grouped in memory"),
    ],
)
def test_what_does_not_go_together_is_said(gpukm: Gpukm, tmp_path: Path, more: tuple[str, ...], words: str) -> None:
    pq.write_table(example(20_000), tmp_path / "flights.parquet")
    done = gpukm(*TRAIN, "--null-policy", "drop", *more)
    assert done.code == 2 and words in done.err, done.err
