import torch
import trimesh

from dss.experiments.fit_profile import STAGES, fit_profile
from dss.registry import load_config


def test_every_stage_has_its_share_of_the_total(tmp_path, monkeypatch):
    monkeypatch.setattr("dss.shell.cover.DENSE", 20_000)
    monkeypatch.setattr("dss.shell.cover.MIN_COARSE", 2_000)
    monkeypatch.setattr("dss.shell.cover.DESCENTS", 2)
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    settings = ["spheres.count=8", "samples.count=5000", "fit.epochs=2", "fit.resample=2"]
    config = load_config("fast", settings, str(tmp_path / "ball.ply"))
    rows = fit_profile(config, tmp_path, torch.device("cpu"))
    assert list(rows) == [*STAGES, "rest", "total"]
    for clock in ("clock", "processor"):
        total = rows["total"][clock]
        assert abs(sum(row[clock] for row in rows.values()) - 2 * total) < 1e-9
        assert all(0 < rows[stage][clock] < total for stage in STAGES)
        assert rows["rest"][clock] < 0.5 * total
    assert (tmp_path / "clock" / "field.safetensors").is_file()
