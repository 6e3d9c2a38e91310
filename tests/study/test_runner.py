"""What the processes of a study are given, and what their ends are called."""

from __future__ import annotations

import os

from ppema.study.runner import Failure, child_environment, exit_code


def test_a_run_has_one_thread_no_downloads_and_no_life_of_its_own():
    given = {"PATH": "/bin", "OMP_NUM_THREADS": "8", "PPEMA_MIRRORS": "http://localhost"}
    assert child_environment(given) == {
        **{"PATH": "/bin", "OMP_NUM_THREADS": "1", "PPEMA_MIRRORS": ""},
        "PPEMA_PARENT": str(os.getpid()),
    }


def test_the_exit_code_is_that_of_the_first_failure():
    assert exit_code([]) == 0
    assert exit_code([Failure(None, 4, "NaN"), Failure(None, 3, "damaged")]) == 4
