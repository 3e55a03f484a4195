"""The benchmarks in small: in threads instead of processes, which take seconds to start."""

import threading

import pytest

from benchmarks import features, training, turns
from benchmarks.roofline import Ceilings


@pytest.fixture(autouse=True)
def in_threads(monkeypatch):
    monkeypatch.setattr(turns, "Process", threading.Thread)


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch):
    for module in (features, training):
        monkeypatch.setattr(module, "measure_ceilings", lambda *_: Ceilings({"fp32": 1e9}, 1e9))
