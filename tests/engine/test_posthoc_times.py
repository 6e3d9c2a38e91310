"""Which update a tracked average is compared as of, where averages fold at other steps."""

from __future__ import annotations

import re
from dataclasses import asdict

import paddle

from ppema.averaging.profile import sigma_rel_to_gamma
from ppema.checkpoint.files import sha256_of
from ppema.engine.posthoc import SnapshotSet, verify
from ppema.engine.snapshots import Snapshot, file_name


def take(folder, average, sigma_rel, step, time):
    """Write a snapshot whose one weight is the mean time of its profile, and list it."""
    gamma = sigma_rel_to_gamma(sigma_rel)
    path = folder / "snapshots" / file_name(average, step)
    path.parent.mkdir(exist_ok=True)
    paddle.save({"w": paddle.full([1], time * (gamma + 1) / (gamma + 2))}, str(path))
    size, sha256 = path.stat().st_size, sha256_of(path)
    return asdict(Snapshot(average, sigma_rel, step, step, time, [], size, sha256))


def test_an_average_that_ends_earlier_is_made_as_of_its_own_last_update(tmp_path):
    taken = []
    for step in range(2, 61, 2):
        taken.append(take(tmp_path, "narrow", 0.05, step, step))
        taken.append(take(tmp_path, "wide", 0.15, step, step))
    taken.append(take(tmp_path, "late", 0.10, 60, 50))
    manifest = {"snapshots": taken}
    text = verify("late", SnapshotSet(tmp_path, manifest, None, ["late"]), manifest)
    (percent,) = re.findall(r"differs by (\S+) % from the tracked one", text)
    assert float(percent) < 0.1
    assert "as of step 60, update 60" in str(SnapshotSet(tmp_path, manifest))
