"""Which device and precision a run gets, and what it is told where there is no such."""

from datetime import timedelta

import pytest
import torch
from accelerate.state import AcceleratorState

from captioner.errors import ConfigError
from captioner.settings import Settings, TrainerSettings
from captioner.training.device import build_accelerator, resolve_precision


def make_settings(**trainer):
    return Settings(trainer=TrainerSettings(**trainer))


@pytest.mark.parametrize(
    ("precision", "device", "resolved"),
    [("fp32", "cpu", "fp32"), ("bf16", "cpu", "bf16"), ("fp16", "cuda", "fp16"), ("auto", "mps", "fp32")],
)
def test_precision(precision, device, resolved):
    assert resolve_precision(precision, torch.device(device)) == resolved


@pytest.mark.parametrize(("bf16", "amx", "resolved"), [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16")])
def test_auto_precision_on_a_processor(monkeypatch, bf16, amx, resolved):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(bf16))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert resolve_precision("auto", torch.device("cpu")) == resolved


@pytest.mark.parametrize(("supported", "resolved"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_on_a_gpu(monkeypatch, supported, resolved):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: supported)
    assert resolve_precision("auto", torch.device("cuda")) == resolved


def test_fp16_needs_a_gpu():
    with pytest.raises(ConfigError, match=r"trainer.precision=fp16 needs a CUDA GPU, this run is on cpu; use bf16 or"):
        build_accelerator(make_settings(device="cpu", precision="fp16"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "trainer.device=cuda, but torch sees 0 CUDA GPUs here; use auto or cpu"),
        ("cuda:1", "trainer.device=cuda:1, but torch sees 0 CUDA GPUs here; use auto or cpu"),
        ("mps", "trainer.device=mps, but torch sees no Apple GPU here; use auto or cpu"),
    ],
)
def test_absent_device(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        build_accelerator(make_settings(device=device))


def test_processes_wait_for_one_that_encodes_the_images_of_all(monkeypatch):
    """torch's own patience is half an hour on CPUs and ten minutes on GPUs, from an encoder's first image on."""
    waits = []

    def begin(*, timeout, **options):
        waits.append(timeout)
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(torch.distributed, "init_process_group", begin)
    names = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    for name, value in {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(ConnectionError):
            build_accelerator(make_settings(device="cpu"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert waits == [timedelta(hours=24)]


def test_threads_are_the_settings_own():
    before = torch.get_num_threads()
    try:
        build_accelerator(make_settings(device="cpu", threads=3))
        assert torch.get_num_threads() == 3
        build_accelerator(make_settings(device="cpu"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
