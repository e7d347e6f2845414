"""Every row labelled by the model of its group, through the program."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Gpukm, example

TRAIN = ("train", "flights.parquet", "-k", "4", "--exclude", "month", "--group-by", "carrier", "--null-policy", "drop")
ASSIGN = ("assign", "flights.parquet", "--group-by", "carrier", "--id-column", "id", "-o", "all.parquet")
OWN = ["label", "distance", "second_distance", "outlier"]


@pytest.fixture
def trained(gpukm: Gpukm, tmp_path: Path) -> pa.Table:
    """Flights with gaps, and a model for each of two carriers of three."""
    table = example(900)
    known = table.filter([carrier != "UA" for carrier in table["carrier"].to_pylist()])
    pq.write_table(known, tmp_path / "flights.parquet")
    assert gpukm(*TRAIN, "--step", "standardize").code == 0
    return table


def test_a_row_gets_what_its_groups_model_alone_gives_it(gpukm: Gpukm, trained: pa.Table, tmp_path: Path) -> None:
    done = gpukm(*ASSIGN, "--batch-rows", "77", "--json")
    assert done.code == 0, done.err
    found = pq.read_table(tmp_path / "all.parquet")
    assert found.column_names == ["id", "carrier", *OWN]
    assert found["id"].to_pylist() == sorted(found["id"].to_pylist())
    n_rows = n_outliers = 0
    for group in done.data["groups"]:
        value = group["value"]
        alone = gpukm(
            "assign", "flights.parquet", "--where", f"carrier={value}", "--model", f"flights.{value}",
            "--id-column", "id,carrier", "-o", "one.parquet", "--json",
        )  # fmt: skip
        mine = found.filter([carrier == value for carrier in found["carrier"].to_pylist()])
        assert mine.equals(pq.read_table(tmp_path / "one.parquet")), value
        assert (group["id"], group["counts"]) == (alone.data["id"], alone.data["counts"])
        assert (group["n_rows"], group["n_dropped"]) == (300, alone.data["n_dropped"])
        n_rows, n_outliers = n_rows + alone.data["n_rows"], n_outliers + alone.data["n_outliers"]
    assert (done.data["n_rows"], done.data["n_outliers"]) == (n_rows, n_outliers) == (len(found), n_outliers)
    assert done.data["n_dropped"] == 600 - n_rows > 0
    text = gpukm(*ASSIGN)
    assert text.out.startswith("CARRIER") and "flights.AA #1" in text.out and "rows written" in text.out


def test_groups_without_a_model_are_named_or_get_null(gpukm: Gpukm, trained: pa.Table, tmp_path: Path) -> None:
    carriers = trained["carrier"].to_pylist()
    carriers[0] = None
    pq.write_table(trained.set_column(6, "carrier", pa.array(carriers)), tmp_path / "flights.parquet")
    done = gpukm(*ASSIGN)
    assert done.code == 2 and not (tmp_path / "all.parquet").exists()
    assert "1 groups of 'carrier' have no model: UA (300 rows), and 1 rows have no value" in done.err
    assert "--unknown-groups null" in done.err
    done = gpukm(*ASSIGN, "--unknown-groups", "null", "--json")
    assert done.code == 0 and "their labels are null" in done.err
    assert (done.data["unknown"], done.data["n_missing"]) == ({"UA": 300}, 1)
    found = pq.read_table(tmp_path / "all.parquet")
    for carrier, *own in zip(*(found[name].to_pylist() for name in ["carrier", *OWN]), strict=True):
        assert [v is None for v in own] == 4 * [carrier in (None, "UA")]
    assert found["id"].to_pylist() == sorted(found["id"].to_pylist()) and found["carrier"].null_count == 1


def test_a_dry_run_checks_and_writes_nothing(gpukm: Gpukm, trained: pa.Table, tmp_path: Path) -> None:
    done = gpukm(*ASSIGN, "--dry-run", "--json")
    assert done.code == 0 and [g["number"] for g in done.data["groups"]] == [1, 1] and done.data["out"] is None
    pq.write_table(trained.drop_columns(["delay"]), tmp_path / "flights.parquet")
    done = gpukm(*ASSIGN, "--dry-run", "--unknown-groups", "null")
    assert done.code == 2 and "carrier 'AA'" in done.err and "'delay'" in done.err
    assert not (tmp_path / "all.parquet").exists()


def test_what_cannot_be_done_is_said(gpukm: Gpukm, trained: pa.Table, tmp_path: Path) -> None:
    for more, words in (
        (("--unknown-groups", "maybe"), "expected one of error, null"),
        (("--model", "other"), "no group of 'carrier' has a model other.VALUE"),
        (("--group-by", "delay"), "expected text, whole numbers, booleans or dates"),
        (("--snapshot", "7"), "no record 7 of model"),
        (("--id-column", "label"), "name of a column that assign writes"),
    ):
        done = gpukm(*ASSIGN, *more)
        assert done.code == 2 and words in done.err, done.err
    assert not (tmp_path / "all.parquet").exists()


def test_models_of_another_columns_groups_are_refused(gpukm: Gpukm, trained: pa.Table, tmp_path: Path) -> None:
    known = pq.read_table(tmp_path / "flights.parquet")
    pq.write_table(known.rename_columns([*known.column_names[:-1], "airline"]), tmp_path / "flights.parquet")
    done = gpukm("assign", "flights.parquet", "--group-by", "airline", "-o", "all.parquet")
    assert done.code == 2 and "group of column 'carrier', not of 'airline'" in done.err
    done = gpukm("assign", "flights.parquet", "--model", "flights.AA", "--unknown-groups", "null", "-o", "all.parquet")
    assert done.code == 2 and "give --group-by COLUMN too" in done.err
