import contextlib
import json
import logging
import resource
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from captioner.errors import ConfigError
from captioner.settings import TrackingSettings
from captioner.training import wandb_tracker
from captioner.training.tracking import JsonLinesTracker, Trackers, check_trackers, open_trackers, read_metrics

WANDB = TrackingSettings(wandb=True, project="tiny")
TENSORBOARD = TrackingSettings(tensorboard=True)


@pytest.fixture
def path(tmp_path):
    """A metrics.jsonl with lines of steps 2, 4, 4 and 6."""
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLinesTracker(path)
    for step, name in ((2, "train/loss"), (4, "train/loss"), (4, "validation/loss"), (6, "train/loss")):
        tracker.log(step, {name: step / 3})
    return path


def steps(path):
    return [line["step"] for line in read_metrics(path)]


def test_lines_are_json_with_their_step(path):
    assert path.read_text().splitlines()[0] == '{"step": 2, "train/loss": 0.6666666666666666}'
    assert steps(path) == [2, 4, 4, 6]


def test_new_run_starts_anew(path):
    JsonLinesTracker(path)
    assert path.read_text() == ""


def test_resumed_run_drops_what_it_will_log_again(path):
    tracker = JsonLinesTracker(path, resume_step=4)
    assert steps(path) == [2, 4, 4]
    tracker.log(4, {"validation/loss": 4 / 3})  # its checkpoint was written before this validation
    tracker.log(4, {"other": 1})
    tracker.log(6, {"train/loss": 2})
    assert steps(path) == [2, 4, 4, 4, 6]


def test_file_with_nothing_to_drop_is_not_written_anew(path):
    before = path.stat().st_ino
    JsonLinesTracker(path, resume_step=6)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("torn", ['{"step": 7, "tr', "3", '{"loss": 1}', '{"step": "x"}', '{"step": 1e999}', "\xff\0"])
def test_torn_lines_are_passed_over_and_removed(path, caplog, torn):
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    JsonLinesTracker(path, resume_step=6).log(8, {"train/loss": 1.0})
    assert "metrics.jsonl: passed over a torn line" in caplog.text
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 4, 6, 8]


def test_missing_file_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    JsonLinesTracker(tmp_path / "run" / "metrics.jsonl", resume_step=5).log(6, {})
    assert steps(tmp_path / "run" / "metrics.jsonl") == [6]


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    JsonLinesTracker(tmp_path / "metrics.jsonl").log(1, {"a": float("inf"), "b": float("nan"), "c": ["text"], "d": 2.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": ["text"], "d": 2.5}\n'


@contextlib.contextmanager
def no_space_after(size):
    """Files of this process find no space beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("again", [lambda tracker: tracker.log(9, {"train/loss": 1.0}), JsonLinesTracker.flush])
def test_lines_that_find_no_space_wait_and_none_is_torn(path, caplog, again):
    tracker = JsonLinesTracker(path, resume_step=6)
    before = path.read_bytes()
    with no_space_after(len(before) + 9):
        for step in (7, 8):
            tracker.log(step, {"train/loss": 1.0})
            assert path.read_bytes() == before
        tracker.flush()
    assert len(caplog.messages) == 1
    assert "metrics.jsonl (File too large): its lines wait in memory until that is mended" in caplog.text
    again(tracker)
    tracker.close()
    assert steps(path)[:6] == [2, 4, 4, 6, 7, 8]
    assert path.read_bytes().startswith(before)
    assert len(caplog.messages) == 1


def test_lines_that_never_find_space_are_told(path, caplog):
    tracker = JsonLinesTracker(path, resume_step=6)
    with no_space_after(path.stat().st_size):
        for step in (7, 8):
            tracker.log(step, {"train/loss": 1.0})
        tracker.close()
    assert caplog.messages[-1] == f"{path}: its last 2 lines are lost"
    assert steps(path) == [2, 4, 4, 6]


class Failing:
    """A tracker whose service is gone."""

    def log(self, step, metrics):
        raise ConnectionError("the service is gone")

    def close(self):
        raise ConnectionError("the service is still gone")


def test_failing_tracker_is_dropped_with_a_warning(tmp_path, caplog):
    trackers = Trackers([Failing(), JsonLinesTracker(tmp_path / "metrics.jsonl")])
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert caplog.messages == ["tracking with Failing stopped: the service is gone"]
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


def test_tracker_that_does_not_close_is_a_warning(caplog):
    Trackers([Failing()]).close()
    assert caplog.messages == ["Failing did not close: the service is still gone"]


def test_fault_of_the_program_is_not_taken_for_a_failing_service(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Trackers([JsonLinesTracker(tmp_path / "metrics.jsonl")]).log(1, {"loss": object()})


class FakeWandb(SimpleNamespace):
    """What the adapter uses of wandb, without its process."""

    def __init__(self, *, key=True):
        self.started, self.logged, self.finished = [], [], 0
        super().__init__(
            Settings=dict,
            teardown=lambda: None,
            Image=lambda picture, caption: (picture.size, caption),
            login=lambda *, prompt, verify: key and not prompt and not verify,
        )

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, metrics, *, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.fixture
def no_mode(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """What the adapter sets for its process ends with the test."""
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.usefixtures("no_mode")
def test_wandb_gets_the_numbers_and_goes_on_in_the_same_curves(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 4):
        trackers = open_trackers(WANDB, run=tmp_path, config={"optim": {"lr": 1}}, resume_step=step)
        trackers.log(step + 4, {"loss": 1.5, "epoch": 1, "samples": ["a dog"]})
        trackers.close()
    assert (fake.logged, fake.finished) == ([(4, {"loss": 1.5, "epoch": 1}), (8, {"loss": 1.5, "epoch": 1})], 2)
    first, second = fake.started
    assert first == second
    assert {name: first[name] for name in ("project", "name", "dir", "config", "resume", "mode")} == {
        **{"project": "tiny", "name": tmp_path.name, "dir": tmp_path, "config": {"optim": {"lr": 1}}},
        **{"resume": "allow", "mode": "online"},
    }
    assert first["id"] == (tmp_path / "wandb-id.txt").read_text()
    assert steps(tmp_path / "metrics.jsonl") == [4, 8]


@pytest.mark.parametrize(
    ("mode", "key", "resolved"),
    [("", True, "online"), ("", False, "offline"), ("online", False, "offline"), ("disabled", False, "disabled")],
)
def test_wandb_never_prompts(tmp_path, monkeypatch, caplog, mode, key, resolved):
    fake = FakeWandb(key=key)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", mode)
    open_trackers(WANDB, run=tmp_path, config={}).close()
    assert fake.started[0]["mode"] == resolved
    assert ("Weights & Biases has no API key here" in caplog.text) == (resolved == "offline")


@pytest.mark.usefixtures("no_mode")
def test_wandb_server_that_cannot_be_reached_is_a_warning_and_the_curves_are_kept(tmp_path, monkeypatch, caplog):
    fake = FakeWandb()
    begin = fake.init

    def init(**options):
        if options["mode"] == "online":
            raise TimeoutError("no\nanswer")
        return begin(**options)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers = open_trackers(WANDB, run=tmp_path, config={})
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert caplog.messages == [
        "Weights & Biases cannot be reached (no answer): logging offline, "
        f"`wandb sync {tmp_path}/wandb/*run-*` uploads it later"
    ]
    assert (fake.started[0]["mode"], fake.logged, fake.finished) == ("offline", [(1, {"loss": 1.0})], 1)
    assert steps(tmp_path / "metrics.jsonl") == [1]


@pytest.mark.usefixtures("no_mode")
@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_wandb_that_breaks_is_a_warning(tmp_path, monkeypatch, caplog, broken):
    fake = FakeWandb()
    fake_broken = lambda *arguments, **options: (_ for _ in ()).throw(ConnectionError("gone"))  # noqa: E731
    setattr(fake, broken, fake_broken)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers = open_trackers(WANDB, run=tmp_path, config={})
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert "gone" in caplog.messages[-1]
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


@pytest.mark.usefixtures("no_mode")
def test_wandb_never_holds_training_up(tmp_path, monkeypatch, caplog):
    fake, answered = FakeWandb(), threading.Event()
    begin = fake.init
    fake.init = lambda **options: answered.wait(60) and begin(**options)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(wandb_tracker, "MOST_PENDING", 3)
    trackers = open_trackers(WANDB, run=tmp_path, config={})
    for step in range(1, 6):
        trackers.log(step, {"loss": 1.0})  # nobody has answered yet
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert caplog.messages == ["tracking with WandbTracker stopped: Weights & Biases took none of the last 3 lines"]
    answered.set()


@pytest.mark.usefixtures("no_mode")
def test_wandb_shows_sample_captions_with_their_images(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    pictures = [Image.new("RGB", (8 + place, 6)) for place in range(3)]
    trackers = open_trackers(WANDB, run=tmp_path, config={}, pictures=lambda: pictures)
    trackers.log(4, {"validation/loss": 2.5, "validation/samples": ["a dog", "a cat"]})
    trackers.close()
    assert fake.logged == [(4, {"validation/loss": 2.5, "validation/samples": [((8, 6), "a dog"), ((9, 6), "a cat")]})]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_tracker_that_is_not_installed_is_told_before_anything_else(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"{name} is not installed; run `pip install {name}`"):
        check_trackers(TrackingSettings(**{name: True}))
    check_trackers(TrackingSettings())


class TestTensorBoard:
    @pytest.fixture
    def written(self, monkeypatch):
        """What the adapter gives to TensorBoard's writer."""
        written = []

        class Writer:
            def __init__(self, folder, purge_step):
                written.append(("open", Path(folder).name, purge_step))

            def __getattr__(self, name):
                return lambda *words, **options: written.append((name, *words))

        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
        return written

    def test_gets_curves_settings_and_samples(self, tmp_path, written):
        pictures = [Image.new("RGB", (8, 6))]
        trackers = open_trackers(TENSORBOARD, run=tmp_path, config={"lr": 1}, resume_step=4, pictures=lambda: pictures)
        trackers.log(5, {"loss": 1.5, "samples": ["a dog", "a cat"]})
        trackers.close()
        assert written[:4] == [
            ("open", "tensorboard", 5),
            ("add_text", "settings", '```json\n{\n  "lr": 1\n}\n```', 4),
            ("add_scalar", "loss", 1.5, 5),
            ("add_text", "samples", "a dog\n\na cat", 5),
        ]
        assert written[4][:2] == ("add_image", "samples/0")
        assert written[4][2].shape == (6, 8, 3)
        assert [line[0] for line in written[5:]] == ["flush", "close"]

    def test_real_one(self, tmp_path):
        pytest.importorskip("tensorboard", reason="an extra")
        trackers = open_trackers(TENSORBOARD, run=tmp_path, config={}, pictures=lambda: [Image.new("RGB", (8, 6))])
        trackers.log(1, {"loss": 1.0, "samples": ["a dog"]})
        trackers.close()
        (events,) = (tmp_path / "tensorboard").iterdir()
        assert b"a dog" in events.read_bytes()


def test_wandb_is_not_even_imported_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    open_trackers(TrackingSettings(), run=tmp_path, config={}).log(1, {"loss": 1.0})
    assert steps(tmp_path / "metrics.jsonl") == [1]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_real_wandb_without_network(tmp_path, monkeypatch, caplog, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with caplog.at_level(logging.WARNING):
        trackers = open_trackers(
            WANDB, run=tmp_path / "run", config={"optim": {"lr": 1}}, pictures=lambda: [Image.new("RGB", (8, 6))]
        )
        trackers.log(1, {"loss": 1.0, "samples": ["a dog"]})
        trackers.close()
    assert caplog.messages == []
    logged = list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert len(logged) == (mode == "offline")
    assert steps(tmp_path / "run" / "metrics.jsonl") == [1]
