"""How soon a run came to an accuracy, from its metrics.jsonl."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Sequence

Records = Sequence[Mapping[str, Any]]


def images_until(
    step: int, images_per_step: int, steps_per_epoch: int, images_per_epoch: int
) -> int:
    """Return the images trained on up to a step; the last of an epoch may have fewer than others.

    Args:
        step: from 0 on.
        images_per_step: of a step that has all.
        steps_per_epoch: of the whole run.
        images_per_epoch: likewise, those of its steps alone.
    """
    epochs, steps = divmod(step, steps_per_epoch)
    return epochs * images_per_epoch + min(steps * images_per_step, images_per_epoch)


def seconds_by_step(records: Records, images_at: Callable[[int], int]) -> dict[int, float]:
    """Return the seconds of training up to each training record's step.

    Evaluations and checkpoints take no part, nor do stops: the time is that of the images, by the
    speed in the record.

    Args:
        records: of a metrics.jsonl.
        images_at: gives the images trained on up to a step.
    """
    seconds, step, total = {0: 0.0}, 0, 0.0
    for record in records:
        if record["split"] == "train" and record["ips"]:
            num_images = images_at(record["step"]) - images_at(step)
            total += num_images / record["ips"]
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
