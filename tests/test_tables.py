import csv
import json
import math

import pytest

from dss.tables import Column, mean_of, spread_of, table, write_csv, write_json

COLUMNS = (
    Column("bytes", "KiB", ".1f", 1 / 1024),
    Column("chamfer", "chamfer", ".2e"),
    Column("never", "never", ".2e"),
)


def test_mean_of_numbers_that_all_rows_have():
    rows = [
        {"a": 1, "parts": {"b": 2}, "name": "x", "yes": True, "c": 1.0},
        {"a": 4, "parts": {}, "name": "y", "yes": False},
    ]
    assert mean_of(rows) == {"a": 2.5, "yes": 0.5}
    assert mean_of(iter(rows)) == mean_of(rows) and mean_of([]) == {}


def test_mean_leaves_nan_out_and_keeps_infinity():
    nothing, something = math.nan, 3.0
    mean = mean_of(
        [{"a": nothing, "b": math.inf, "c": nothing}, {"a": something, "b": 30.0, "c": nothing}]
    )
    assert mean["a"] == 3 and mean["b"] == math.inf and math.isnan(mean["c"])


def test_spread_is_that_of_a_sample():
    rows = [{"a": 1, "b": 1.0, "c": math.inf, "name": "x"}, {"a": 4, "b": math.nan, "c": 1.0}]
    spread = spread_of([*rows, {"a": 1, "b": math.nan, "c": 2.0}])
    assert spread["a"] == pytest.approx(3**0.5) and spread.keys() == {"a", "b", "c"}
    assert math.isnan(spread["b"]) and math.isnan(spread["c"])


def test_table():
    lines = table(
        {"one": {"bytes": 2048, "chamfer": 0.001}, "another": {"bytes": 10}}, COLUMNS
    ).splitlines()
    assert lines == [
        "|         | KiB |  chamfer |",
        "| ------- | --: | -------: |",
        "| one     | 2.0 | 1.00e-03 |",
        "| another | 0.0 |          |",
    ]


def test_json_has_null_for_what_is_not_finite(tmp_path):
    values = {"a": math.inf, "b": [math.nan, 1.5, {"c": -math.inf}], "d": "NaN", "e": 3, "f": True}
    write_json(tmp_path / "values.json", values)
    expected = {"a": None, "b": [None, 1.5, {"c": None}], "d": "NaN", "e": 3, "f": True}
    assert json.loads((tmp_path / "values.json").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["values.json"]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_csv(tmp_path):
    write_csv(tmp_path / "rows.csv", [{"a": 1, "b": 0.5, "c": 9}, {"b": "x, y"}], ["a", "b"])
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", "0.5"], ["", "x, y"]]
