"""How soon a run came to an accuracy, from its metrics.jsonl."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

Records = Sequence[Mapping[str, Any]]


def seconds_by_step(records: Records, images_per_step: int) -> dict[int, float]:
    """Return the seconds of training up to each training record's step.

    Evaluations and checkpoints take no part, nor do stops: the time is that of the images, by the
    speed in the record. A last batch that is not full counts as a full one.
    """
    seconds, step, total = {0: 0.0}, 0, 0.0
    for record in records:
        if record["split"] == "train" and record["ips"]:
            total += (record["step"] - step) * images_per_step / record["ips"]
            step = record["step"]
            seconds[step] = total
    return seconds


def first_reaching(records: Records, name: str, top1: float) -> Optional[int]:
    """Return the step of the first evaluation of some weights with that accuracy, None without."""
    for record in records:
        if record["split"] == "eval" and record["average"] == name and record["top1"] >= top1:
            return int(record["step"])
    return None


def seconds_to(step: int, seconds: Mapping[int, float]) -> float:
    """Return the seconds of training up to a step; between two records, in proportion."""
    before = max(s for s in seconds if s <= step)
    after = min((s for s in seconds if s >= step), default=before)
    if after == before:
        return seconds[before]
    share = (step - before) / (after - before)
    return seconds[before] + share * (seconds[after] - seconds[before])
