"""Compute what an average takes with 1, 8 and 64 GPUs: python tools/benchmarks/scaling_table.py

Prints the tables of docs/scaling.md. Nothing is measured here; a test holds the page to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

# Bytes of a float32: of a weight that the optimizer keeps, and of its average.
FLOAT = 4
# An update reads weight and average, and writes the average.
MOVED = 3 * FLOAT
# Mixed precision with Adam: float32 weight, two moments, and weight and gradient in 16 bits.
STATE = 3 * FLOAT + 2 + 2

# Bytes a second, of the data sheets that the page names.
GPU_MEMORY = 3.35e12
PCIE = 64e9
NVLINK = 450e9
NETWORK = 50e9
HOST_MEMORY = 2 * 8 * 38.4e9
DISK = 2e9
GPUS_OF_HOST = 8
GPU_BYTES = 80e9
# Products of 16-bit numbers a second, and the share of them that training reaches.
FLOPS, REACHED = 989e12, 0.4

MODELS = {
    "LeNet": 61_706,
    "ResNet50": 25_600_000,
    "ViT-L": 304_000_000,
    "7 B": 7_000_000_000,
    "70 B": 70_000_000_000,
}
NUM_RANKS = (1, 8, 64)
TOKENS = (1_024, 4_096, 16_384, 65_536)
# Of a step: what an average may take.
SHARE = 0.01


@dataclass(frozen=True)
class Cost:
    """What training and one average of `weights` weights take of each of `ranks` GPUs."""

    weights: int
    ranks: int

    @property
    def part(self) -> float:
        """Return the weights that a GPU has of an average that is spread."""
        return self.weights / self.ranks

    @property
    def state_bytes(self) -> float:
        """Return what training itself keeps on a GPU where everything of it is spread."""
        return STATE * self.part

    @property
    def offload_s(self) -> float:
        """Return the seconds of an update in main memory: weights copied there, then moved."""
        host = HOST_MEMORY / GPUS_OF_HOST
        return FLOAT * self.part / PCIE + MOVED * self.part / host

    @property
    def received_bytes(self) -> float:
        """Return what a GPU receives when the whole average is gathered on all."""
        return FLOAT * (self.weights - self.part)

    @property
    def gather_s(self) -> float:
        """Return the seconds that gathering takes."""
        link = NVLINK if self.ranks <= GPUS_OF_HOST else NETWORK
        return self.received_bytes / link

    @property
    def write_s(self) -> float:
        """Return the seconds that the first rank writes."""
        return FLOAT * self.weights / DISK

    @property
    def place(self) -> str:
        """Return the first way that a GPU has memory for: of training, and of the average."""
        if (STATE + FLOAT) * self.weights <= GPU_BYTES:
            return "both whole"
        if self.state_bytes + FLOAT * self.part <= GPU_BYTES:
            return "both spread"
        is_enough = self.state_bytes <= GPU_BYTES
        return "training spread, average in main memory" if is_enough else "none: more GPUs"


def share_of_step(tokens: int, ranks: int = 1) -> float:
    """Return an update's seconds over those of forward and backward of a transformer.

    These take six operations a weight and token, so that the weights cancel.

    Args:
        tokens: of a step on each GPU.
        ranks: over which the average is spread.
    """
    return (MOVED / ranks / GPU_MEMORY) / (6 * tokens / (FLOPS * REACHED))


def every(tokens: int, ranks: int = 1) -> int:
    """Return after how many steps to update for an average to take at most `SHARE` of them."""
    return max(1, math.ceil(share_of_step(tokens, ranks) / SHARE))


def memory_table() -> str:
    """Return the bytes on each GPU, and where an average finds room."""
    head = (
        *("model", "GPUs", "training, whole", "training, spread"),
        *("average, whole", "average, spread", "there is room for"),
    )
    rows = [
        (
            *(name, str(cost.ranks), size(STATE * cost.weights), size(cost.state_bytes)),
            *(size(FLOAT * cost.weights), size(FLOAT * cost.part), cost.place),
        )
        for name, cost in _costs()
    ]
    return _markdown(head, rows)


def time_table() -> str:
    """Return the times of an update and of a save, on each GPU."""
    head = (
        *("model", "GPUs", "update, whole", "spread", "spread, in main memory"),
        *("a save: received", "in", "written in"),
    )
    rows = [
        (
            *(name, str(cost.ranks), duration(MOVED * cost.weights / GPU_MEMORY)),
            *(duration(MOVED * cost.part / GPU_MEMORY), duration(cost.offload_s)),
            *(size(cost.received_bytes), duration(cost.gather_s), duration(cost.write_s)),
        )
        for name, cost in _costs()
    ]
    return _markdown(head, rows)


def step_table() -> str:
    """Return the share of a transformer's step, and how rarely to update for 1 %."""
    head = ["tokens of a GPU in a step"]
    head += [text for n in NUM_RANKS for text in (f"spread over {n}", "update every")]
    head[1] = "whole"
    rows = []
    for tokens in TOKENS:
        cells = [f"{tokens:,}"]
        for ranks in NUM_RANKS:
            cells += [f"{100 * share_of_step(tokens, ranks):.2g} %", str(every(tokens, ranks))]
        rows.append(cells)
    return _markdown(head, rows)


def size(value: float) -> str:
    """Return so many bytes in two or three digits."""
    return _scaled(value, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def duration(value: float) -> str:
    """Return so many seconds in two or three digits."""
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def _scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    if not value:
        return "0"
    unit, factor = next((each for each in units if value >= each[1]), units[-1])
    scaled = value / factor
    return f"{scaled:.0f} {unit}" if scaled >= 99.5 else f"{scaled:.2g} {unit}"


def _costs() -> list[tuple[str, Cost]]:
    return [(name, Cost(weights, n)) for name, weights in MODELS.items() for n in NUM_RANKS]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print("\n\n".join([memory_table(), time_table(), step_table()]))
