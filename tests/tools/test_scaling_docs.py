"""docs/scaling.md says what tools/benchmarks/scaling_table.py computes, by its formulas."""

from __future__ import annotations

import sys

import pytest
from in_process import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))

from benchmarks import scaling_table
from benchmarks.scaling_table import Cost, duration, every, share_of_step, size

PAGE = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", ["memory_table", "time_table", "step_table"])
def test_the_tables_of_the_page_are_those_that_are_computed(table):
    assert getattr(scaling_table, table)() in PAGE


def test_an_average_of_7_billion_weights_over_8_gpus():
    cost = Cost(7_000_000_000, 8)
    assert cost.state_bytes == 14e9
    assert cost.received_bytes == 24.5e9
    assert cost.gather_s == pytest.approx(24.5 / 450)
    assert cost.write_s == pytest.approx(14.0)
    # To main memory by PCIe, then read twice and written once by an eighth of its bandwidth.
    assert cost.offload_s == pytest.approx(3.5 / 64 + 10.5 / 76.8)


def test_beyond_one_host_the_network_is_what_gathers():
    assert Cost(10**9, 64).gather_s == pytest.approx(4 * 63 / 64 / 50)


@pytest.mark.parametrize(
    ("weights", "ranks", "place"),
    [
        (4_000_000_000, 8, "both whole"),
        (4_000_000_001, 8, "both spread"),
        (32_000_000_001, 8, "training spread, average in main memory"),
        (40_000_000_001, 8, "none: more GPUs"),
    ],
)
def test_room_is_for_what_80_gb_hold(weights, ranks, place):
    assert Cost(weights, ranks).place == place


def test_the_share_of_a_step_falls_with_tokens_and_ranks():
    # 12 bytes at 3.35 TB/s, against 6 x 4,096 operations at 0.4 x 989e12 a second.
    expected = (12 / 3.35e12) / (6 * 4096 / (0.4 * 989e12))
    assert share_of_step(4096) == pytest.approx(expected)
    assert share_of_step(4096, 8) == pytest.approx(expected / 8)
    assert (every(4096), every(65_536)) == (6, 1)


def test_sizes_and_durations_have_two_or_three_digits():
    assert [size(v) for v in (0, 3.9e3, 99.6e6, 1.12e12)] == ["0", "3.9 kB", "100 MB", "1.1 TB"]
    assert [duration(v) for v in (3.5e-9, 0.0052, 140)] == ["3.5 ns", "5.2 ms", "140 s"]
