import importlib.util
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from dss.errors import InputError
from scripts import download_thingi10k as module

NAMES = ("file_id", "license", "solid", "num_facets")


def test_words_become_ids_and_filters():
    assert module.parse([], NAMES) == (list(module.THINGI32), {})
    assert len(set(module.THINGI32)) == 32
    assert module.parse(["53159", "solid=true", "num_facets=:5000"], NAMES) == (
        [53159],
        {"solid": True, "num_facets": (None, 5000)},
    )
    assert module.parse(["num_facets=10:20", "license=public domain"], NAMES) == (
        [],
        {"num_facets": (10, 20), "license": "public domain"},
    )
    assert module.parse(["num_facets=-3"], NAMES)[1] == {"num_facets": -3}
    assert module.parse(["all"], NAMES) == ([], {})


@pytest.mark.parametrize("word", ["53159x", "facets=3", "", "=1"])
def test_other_words_are_refused(word):
    with pytest.raises(InputError, match="did you mean"):
        module.parse([word], NAMES)


@pytest.fixture
def collection(tmp_path):
    """Two models as the thingi10k package stores and lists them."""
    entries = []
    for number, size in ((11, 1.0), (12, 1e3)):
        mesh = trimesh.creation.icosphere(2, size)
        path = tmp_path / "npz" / f"{number}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, vertices=mesh.vertices, facets=mesh.faces)
        facts = {
            "thing_id": 7,
            "name": f"ball {number}",
            "author": "someone",
            "license": "CC-0",
            "num_vertices": 162,
            "num_facets": 320,
        }
        entries.append({"file_id": number, "file_path": str(path), **facts})
    return entries


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as arrays:
        return arrays["vertices"], arrays["facets"]


def test_export_writes_models_and_facts(collection, tmp_path):
    module.export(collection, load, tmp_path / "out", [11, 12])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "11.json",
        "11.ply",
        "12.json",
        "12.ply",
    ]
    mesh = trimesh.load(tmp_path / "out/12.ply")
    assert len(mesh.faces) == 320 and np.allclose(np.linalg.norm(mesh.vertices, axis=1), 1e3)
    assert json.loads((tmp_path / "out/11.json").read_text())["license"] == "CC-0"


def test_export_resumes(collection, tmp_path):
    module.export(collection[:1], load, tmp_path / "out")
    loaded = []
    module.export(
        collection, lambda path: (loaded.append(Path(path).stem), load(path))[1], tmp_path / "out"
    )
    assert loaded == ["12"]


def test_export_goes_on_behind_what_cannot_be_read(collection, tmp_path):
    Path(collection[0]["file_path"]).write_bytes(b"nothing")
    with pytest.raises(InputError, match="no usable model 11; the others are in"):
        module.export(collection, load, tmp_path / "out")
    assert (tmp_path / "out/12.ply").exists() and not (tmp_path / "out/11.ply").exists()


def test_export_names_what_is_missing(collection, tmp_path):
    with pytest.raises(InputError, match="no usable model 99"):
        module.export(collection, load, tmp_path / "out", [11, 99])
    assert (tmp_path / "out/11.ply").exists()
    with pytest.raises(InputError, match="relax the filters"):
        module.export([], load, tmp_path / "out")


def unreachable() -> None:
    raise RuntimeError("Failed to initialize dataset: Name or service not known")


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (None, "pip install"),
        (SimpleNamespace(dataset=lambda solid=None: [], init=unreachable), "check the network"),
    ],
    ids=["no package", "no network"],
)
def test_says_what_is_lacking(monkeypatch, script, package, message):
    monkeypatch.setitem(sys.modules, "thingi10k", package)
    code, _, error = script("scripts.download_thingi10k")
    assert code == 2 and error.count("\n") == 1 and message in error


@pytest.mark.skipif(
    importlib.util.find_spec("thingi10k") is None, reason="the extra `thingi10k` is not installed"
)
def test_with_the_package_itself(collection, tmp_path, monkeypatch, script):
    """The package reads a collection in the published layout from a folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets
    import thingi10k
    from thingi10k._builder import DatasetConfig

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(DatasetConfig, "REPO_URL", str(tmp_path))
    monkeypatch.setattr(thingi10k._utils, "with_clip", False)
    with tarfile.open(tmp_path / "Thingi10K_npz.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "npz", "npz")
    (tmp_path / "metadata").mkdir()
    columns = [*DatasetConfig.GEOMETRY_SCHEMA]
    facts = dict.fromkeys(columns, 0) | {
        "num_vertices": 162,
        "num_faces": 320,
        "num_connected_components": 1,
        "solid": 1,
    }
    tables = {
        "geometry_data": [
            columns,
            *[[*(facts | {"file_id": number}).values()] for number in (11, 12)],
        ],
        "input_summary": [["ID", "Thing ID", "Link"], [11, 7, "a.stl"], [12, 7, "b.stl"]],
        "contextual_data": [
            ["Thing ID", "Date", "Category", "Sub-category", "Name", "Author", "License"],
            [7, "2015-01-01", "Art", "Balls", "ball", "someone", "CC-0"],
        ],
        "tag_data": [["Thing ID", "Tag"], [7, "round"]],
    }
    for name, rows in tables.items():
        (tmp_path / f"metadata/{name}.csv").write_text(
            "\n".join(",".join(map(str, row)) for row in rows) + "\n"
        )

    words = ["12", "solid=true", "num_facets=100:", "--out", tmp_path / "out"]
    code, _, error = script("scripts.download_thingi10k", *words)
    assert code == 0, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["12.json", "12.ply"]
    assert json.loads((tmp_path / "out/12.json").read_text())["author"] == "someone"
