"""A home of one's own, and mirrors: nothing here leaves the machine."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from archives import MNIST_FILES
from mirrors import serving


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """Give each test an empty home and no mirrors."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PPEMA_MIRRORS", "")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@pytest.fixture
def own_modules():
    """Let modules that this test imports by path be its own, and nobody's after it."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.endswith(("_data", "my_transforms")):
            del sys.modules[name]


@pytest.fixture
def cache(home):
    folder = home / ".cache/paddle/dataset/mnist"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def real_mnist():
    """Return the folder of the four original archives; skip where they are not at hand."""
    beside = Path(__file__).parents[3] / "shared/data/mnist"
    folder = Path(os.environ.get("PPEMA_TEST_MNIST", beside))
    if not (folder / MNIST_FILES["train"][0]).is_file():
        pytest.skip("the original MNIST is not here; set PPEMA_TEST_MNIST to its folder")
    return folder


@pytest.fixture
def start_mirror():
    """Return a function that starts a `Mirror`."""
    with contextlib.ExitStack() as stack:

        def start(**files):
            server = stack.enter_context(serving())
            server.files.update(files)
            return server

        yield start


@pytest.fixture
def mirror(start_mirror):
    return start_mirror()
