"""One training run, from its settings to an evaluated export, with what it says to the shell."""

import os
import random
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.training_end import finish_run
from captioner.settings import Settings
from captioner.training.timings import EVALUATION, FEATURES, UPLOAD, Stopwatch

if TYPE_CHECKING:
    from captioner.resources import Resources
    from captioner.tasks.captioning import CaptioningTask
    from captioner.training.loop import RunState
    from captioner.training.processes import Processes
    from captioner.training.tracking import Trackers

BEGINNING, TRAINING, STOPPED = "beginning", "training", "stopped"
EVALUATING, UPLOADING = "evaluating", "uploading"
"""Stages of a run, of which only the training has something to lose."""
UPLOAD_SECONDS = 60.0
"""What a stopped run waits for its last upload; clusters give a process some minutes after a polite kill."""


class Training:
    """One training run, from its settings to its evaluated export."""

    def __init__(
        self, settings: Settings, *, preset: str, prog: str, automatic: bool = False, shared: bool = False
    ) -> None:
        """Prepare a run; an ``automatic`` one may begin in the folder that a killed one left.

        One that is ``shared`` was just made from a repository, and cannot be made again in its place.
        """
        self.settings, self.preset, self.prog = settings, preset, prog
        self.automatic, self.shared = automatic, shared
        self.folder = Path(settings.trainer.folder) / settings.trainer.run
        self.best = self.folder / "best"
        self.stage, self.evaluate_with, self.is_saved = BEGINNING, self._again(), True
        self.stopwatch = Stopwatch()

    def run(self, resume: Path | None) -> int:
        """Train, evaluate and export; returns the exit status, also after SIGINT or SIGTERM."""
        from captioner.training.device import build_accelerator
        from captioner.training.processes import Processes
        from captioner.training.run_lock import locked_run
        from captioner.training.signals import InterruptedTrainingError, StoppedError, raised_signals
        from captioner.training.tracking import check_trackers

        check_trackers(self.settings.tracking)
        accelerator = build_accelerator(self.settings)
        processes = Processes(accelerator)
        processes.quieten()
        try:
            with raised_signals(), locked_run(self.folder) if processes.is_main else nullcontext():
                return self._run(resume, accelerator, processes)
        except (InterruptedTrainingError, StoppedError) as stopped:
            if processes.is_main:
                _say(f"{stopped}; {self._way_on()}")
            if stopped.signal == signal.SIGINT:
                return 130
            # Before the training others may be waiting for this process, and their launcher ends them when one fails.
            waited_for = self.stage == BEGINNING and processes.count > 1
            return 1 if self.stage == TRAINING or not self.is_saved or waited_for else 0

    def _run(self, resume: Path | None, accelerator: Any, processes: "Processes") -> int:
        from captioner.training.signals import InterruptedTrainingError

        found = self._find_state(resume, processes)
        resources, task = self._build(found, processes)
        with self._uploading(enabled=processes.is_main):
            try:
                state = self._fit(task, resources, accelerator, found)
            except InterruptedTrainingError:
                self._upload_state()
                raise
            finally:
                processes.part()
            return self._finish(resources, step=state.step) if processes.is_main else 0

    def _way_on(self) -> str:
        """What a stopped run is told to do."""
        from captioner.training.checkpoint import list_checkpoints

        if self.stage == UPLOADING:
            push = shlex.join(["captioner", "push", str(self.best), self.settings.hub.repo_id])
            return f"the run is trained and evaluated, only its upload is not done; upload it with: {push}"
        if self.stage == EVALUATING:
            return f"the run is trained and not evaluated yet; evaluate it with: {self.evaluate_with}"
        if self.stage == BEGINNING and not self.shared:
            return "training had not begun, what is prepared is kept; start it with the same command"
        if not list_checkpoints(self.folder):
            return "there is no checkpoint either; start it anew with the same command"
        lost = "the steps since the newest checkpoint are lost; " if self.stage == TRAINING else ""
        return f"{lost}go on with: {self._again()}"

    def _find_state(self, resume: Path | None, processes: "Processes") -> "tuple[Path, dict[str, Any]] | None":
        """The checkpoint to go on from; raises ConfigError if the settings are not for it, or a new run has no room."""
        from captioner.run_folder import check_free, check_goes_on, check_resumable, check_unfinished, read_settings
        from captioner.training.checkpoint import find_checkpoint, names_step, repair_tokenizer
        from captioner.whole_writes import clear_leftovers

        run = self.folder
        if resume:
            check_goes_on(resume, run)
        self.chosen = bool(resume and names_step(resume))  # a step, rather than all that there is of the run
        if self.automatic and not resume:
            check_unfinished(run)
        if resume or self.automatic:
            processes.one_after_another(lambda: clear_leftovers(run))
        else:
            check_free(run, overwrite=self.settings.trainer.overwrite)
        if not resume:
            return None
        found = find_checkpoint(resume if self.chosen else run)
        check_resumable(read_settings(run)[1], self.settings, position=found[1]["position"])
        processes.one_after_another(lambda: repair_tokenizer(run, *found))
        return found

    def _build(
        self, found: "tuple[Path, dict[str, Any]] | None", processes: "Processes"
    ) -> "tuple[Resources, CaptioningTask]":
        from captioner.build import build_task
        from captioner.resources import AbsentEncoder, find_stream, fingerprints, gather_resources
        from captioner.run_folder import check_made_from

        tokenizer_path = self.folder / "tokenizer.json" if found else None
        # Counting may take hours: one process does it, for those of other machines too.
        shards = processes.agree(find_stream(self.settings) if processes.is_main else None)

        def build() -> "tuple[Resources, CaptioningTask]":
            seed_everything(self.settings.trainer.seed)
            resources = gather_resources(self.settings, tokenizer_path=tokenizer_path, shards=shards)
            self.made_from = fingerprints(resources, self.settings)
            if found:
                check_made_from(found[1].get("made_from", {}), self.made_from, origin=found[0])
            with self.stopwatch.during(FEATURES):
                task = build_task(self.settings, resources, rank=processes.rank, processes=processes.count)
            if resources.shards:  # encoded as they come
                return resources, task
            # A frozen encoder takes more memory than all that is trained, and only the export needs it again.
            self.encoder = AbsentEncoder.of(resources.encoder, self.settings)
            return replace(resources, encoder=None), task

        return processes.one_after_another(build)

    @contextmanager
    def _uploading(self, *, enabled: bool) -> Iterator[None]:
        """Where a repository is named, every new best goes there in the background."""
        from captioner.uploads import BackgroundUploads

        hub = self.settings.hub
        self.uploads = BackgroundUploads(hub, self.folder) if enabled and hub.repo_id else None
        try:
            yield
        finally:
            if self.uploads:
                self.uploads.stop(self.best)

    def _begin(self, task: "CaptioningTask", resources: "Resources", accelerator: Any, found: Any) -> "Trackers":
        """Record the run, now that nothing can be refused any more; gives its trackers."""
        from captioner.build import sample_pictures
        from captioner.run_folder import clear_run, give_up_future, write_settings
        from captioner.settings_json import settings_to_dict
        from captioner.training.progress import count_steps
        from captioner.training.tracking import Trackers, open_trackers

        if not accelerator.is_main_process:
            return Trackers([])
        step = found[1]["step"] if found else 0
        if found:
            finished = step >= count_steps(task.batches_per_epoch(), self.settings.trainer)
            give_up_future(self.folder, step, keep_best=not self.chosen, finished=finished)
        elif not self.automatic:
            clear_run(self.folder)
        write_settings(self.folder, self.settings, preset=self.preset, resumed_at=step if found else None)
        resources.tokenizer.save(self.folder / "tokenizer.json")
        self._announce(task, accelerator, begun=step)
        return open_trackers(
            self.settings.tracking,
            run=self.folder,
            config=settings_to_dict(self.settings),
            resume_step=step,
            pictures=lambda: sample_pictures(resources),
        )

    def _announce(self, task: "CaptioningTask", accelerator: Any, *, begun: int) -> None:
        from captioner.training.progress import describe_steps

        plan = describe_steps(task.batches_per_epoch(), self.settings.trainer, begun=begun)
        parameters = sum(parameter.numel() for parameter in task.module.parameters() if parameter.requires_grad)
        precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
        _say(
            f"Training {self.folder} on {task.describe_data()}: "
            f"{parameters / 1e6:.2f} M trained parameters, {plan} "
            f"(padding {task.padding_share():.1%}), {precision} on {accelerator.device}"
        )

    def _fit(self, task: "CaptioningTask", resources: "Resources", accelerator: Any, found: Any) -> "RunState":
        from captioner.run_folder import has_best
        from captioner.training.loop import fit
        from captioner.training.signals import InterruptedTrainingError

        with ExitStack() as opened:

            def begin() -> "Trackers":
                trackers = opened.enter_context(closing(self._begin(task, resources, accelerator, found)))
                self.stage = TRAINING
                return trackers

            try:
                state = fit(
                    task,
                    self.settings,
                    accelerator=accelerator,
                    run=self.folder,
                    begin=begin,
                    on_best=lambda metrics: self._export(task, resources, {"validation_at_best": metrics}),
                    has_best=lambda step: has_best(self.folder, step),
                    on_saved=self._share_checkpoint,
                    made_from=self.made_from,
                    resume=found,
                    stopwatch=self.stopwatch,
                )
            except InterruptedTrainingError as stopped:
                self.stage = STOPPED if stopped.saved else TRAINING
                raise
            self.stage = EVALUATING  # before the trackers are closed, which may take a while and loses none of the run
            if accelerator.is_main_process:
                self._check_saved(state.step)
            return state

    def _check_saved(self, step: int) -> None:
        """Say what evaluates the run where its last steps are not saved: going on would be to take them again."""
        from captioner.training.checkpoint import list_checkpoints, step_of

        saved = max(map(step_of, list_checkpoints(self.folder)), default=0)
        self.is_saved = saved >= step
        if not self.is_saved and self.best.exists():
            self.evaluate_with = shlex.join(["captioner", "evaluate", str(self.best), "--update-card"])
            _say(
                f"the steps after step {saved} are not saved; {self.best} is whole, evaluate it with: "
                f"{self.evaluate_with}"
            )

    def _export(self, task: "CaptioningTask", resources: "Resources", metrics: dict[str, Any]) -> None:
        from captioner.api import Captioner
        from captioner.data.training_images import TrainingImages
        from captioner.export_reading import read_training_images
        from captioner.models.captioner import CaptionerModel
        from captioner.publish import export

        module = getattr(task.module, "module", task.module)
        encoder = module.encoder or resources.encoder or self.encoder.load()
        model = CaptionerModel(encoder, module.projection, module.decoder)
        if resources.shards:
            trained = TrainingImages.unlisted(resources.shards.fingerprint)
        else:
            trained = TrainingImages.of(
                resources.dataset["train"]["image_id"],
                dataset=self.settings.data.name,
                fingerprint=resources.manifest["fingerprint"],
            )
        if earlier := read_training_images(self.folder):  # those of the captioner whose weights this run began with
            trained = trained.after(earlier)
        parts = (model, resources.tokenizer, resources.processor, self.settings, metrics)
        export(Captioner(*parts, training_images=trained), self.best)
        if self.uploads:
            self.uploads.submit(self.best, f"The best model so far, of step {metrics['validation_at_best']['step']}")

    def _share_checkpoint(self, checkpoint: Path) -> None:
        if self.uploads and self.settings.hub.checkpoints:
            self.uploads.submit(self.best, f"The run's state at step {int(checkpoint.name[5:])}", checkpoint=checkpoint)

    def _upload_state(self) -> None:
        """Give the newest checkpoint a minute to get to the Hub: where a machine is taken back, only that is left."""
        if self.uploads and self.settings.hub.checkpoints:
            self.uploads.finish(self.best, "The run's state as it was stopped", within=UPLOAD_SECONDS)

    def _finish(self, resources: "Resources", *, step: int) -> int:
        """Evaluate the best model, and wait for its last upload."""
        with self.stopwatch.during(EVALUATION):
            finish_run(self.folder, resources, self.settings, prog=self.prog, again=self.evaluate_with)
        self.stage = UPLOADING if self.uploads else EVALUATING
        with self.stopwatch.during(UPLOAD):
            uploaded = not self.uploads or self.uploads.finish(self.best, "The best model, with its evaluation")
        self.stopwatch.write(self.folder, step)
        return 0 if uploaded and self.is_saved else 1

    def _again(self) -> str:
        """What to type to go on with the run, also where this is one of several processes that a launcher started."""
        words = [*self.prog.split(), self.preset, "--resume", str(self.folder)]
        count, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if count == 1:
            return shlex.join(words)
        words = [sys.argv[0], *words[2 if words[0] == "python" else 1 :]]
        if here < count or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            return f"{shlex.join(words)}, with the same `accelerate launch` options"
        return shlex.join(["accelerate", "launch", "--multi_gpu", "--num_processes", str(count), *words])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
