"""One training run, from its settings to an evaluated export, with what it says to the shell."""

import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import CheckpointError
from captioner.settings import Settings
from captioner.settings_checks import parse_metrics
from captioner.training.timings import EVALUATION, FEATURES, UPLOAD, Stopwatch

if TYPE_CHECKING:
    from captioner.resources import Resources
    from captioner.tasks.captioning import CaptioningTask
    from captioner.training.loop import RunState
    from captioner.training.processes import Processes

UPLOAD_SECONDS = 60.0
"""What a stopped run waits for its last upload; clusters give a process some minutes after a polite kill."""


class Training:
    """One training run, from its settings to its evaluated export."""

    def __init__(self, settings: Settings, *, preset: str, prog: str, automatic: bool = False) -> None:
        """Prepare a run; an ``automatic`` one may begin in the folder that a killed one left."""
        self.settings, self.preset, self.prog = settings, preset, prog
        self.automatic = automatic
        self.folder = Path(settings.trainer.folder) / settings.trainer.run
        self.best = self.folder / "best"
        self.stopwatch = Stopwatch()

    def run(self, resume: Path | None) -> int:
        from captioner.training.device import build_accelerator
        from captioner.training.processes import Processes
        from captioner.training.signals import InterruptedTrainingError
        from captioner.training.tracking import check_trackers

        check_trackers(self.settings.tracking)
        accelerator = build_accelerator(self.settings)
        processes = Processes(accelerator)
        processes.quieten()
        found = self._find_state(resume, processes)
        resources, task = self._build(found, processes)
        if processes.is_main:
            if not (resume or self.automatic):  # only now, when all that the new run needs is there, the old one may go
                shutil.rmtree(self.folder, ignore_errors=True)
            self._record(resources, resumed_at=found[1]["step"] if found else None)
            self._announce(task, accelerator, begun=found[1]["step"] if found else 0)
        with self._uploading(enabled=processes.is_main):
            try:
                state = self._fit(task, resources, accelerator, found)
            except InterruptedTrainingError as stopped:
                if processes.is_main:
                    self._upload_state()
                    _say(f"{stopped}; go on with: {self.prog} {self.preset} --resume {self.folder}")
                return 130 if stopped.signal == 2 else 0
            finally:
                processes.part()
            return self._finish(resources, step=state.step) if processes.is_main else 0

    def _find_state(self, resume: Path | None, processes: "Processes") -> "tuple[Path, dict[str, Any]] | None":
        """The checkpoint to go on from; raises ConfigError if the settings are not for it, or a new run has no room."""
        from captioner.run_folder import check_free, check_resumable, read_settings, run_of
        from captioner.training.checkpoint import clear_leftovers, find_checkpoint, names_step

        run = run_of(resume) if resume else self.folder
        if resume or self.automatic:
            processes.one_after_another(lambda: clear_leftovers(run))
        elif not self.settings.trainer.overwrite:
            check_free(run)
        if not resume:
            return None
        found = find_checkpoint(resume if names_step(resume) else run)
        check_resumable(read_settings(run)[1], self.settings, position=found[1]["position"])
        return found

    def _build(
        self, found: "tuple[Path, dict[str, Any]] | None", processes: "Processes"
    ) -> "tuple[Resources, CaptioningTask]":
        from captioner.build import build_task
        from captioner.resources import AbsentEncoder, find_stream, gather_resources
        from captioner.run_folder import check_dataset
        from captioner.training.checkpoint import read_tensors
        from captioner.training.states import load_module_state

        tokenizer_path = self.folder / "tokenizer.json" if found else None
        # Counting may take hours: one process does it, for those of other machines too.
        shards = processes.agree(find_stream(self.settings) if processes.is_main else None)

        def build() -> "tuple[Resources, CaptioningTask]":
            seed_everything(self.settings.trainer.seed)
            resources = gather_resources(self.settings, tokenizer_path=tokenizer_path, shards=shards)
            if found:
                check_dataset(self.folder, resources.manifest["fingerprint"])
            with self.stopwatch.during(FEATURES):
                task = build_task(self.settings, resources, rank=processes.rank, processes=processes.count)
            if resources.shards:  # encoded as they come
                return resources, task
            # A frozen encoder takes more memory than all that is trained, and only the export needs it again.
            self.encoder = AbsentEncoder.of(resources.encoder, self.settings)
            return replace(resources, encoder=None), task

        resources, task = processes.one_after_another(build)
        if found:  # what cannot go on is refused before anything is recorded
            load_module_state(task.module, read_tensors(found[0], "model"), origin=found[0])
            processes.check_states(task, found[1], origin=found[0])
        return resources, task

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

    def _record(self, resources: "Resources", *, resumed_at: int | None) -> None:
        from captioner.run_folder import write_settings

        write_settings(self.folder, self.settings, preset=self.preset, resumed_at=resumed_at)
        resources.tokenizer.save(self.folder / "tokenizer.json")

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
        from captioner.build import sample_pictures
        from captioner.settings_json import settings_to_dict
        from captioner.training.loop import fit
        from captioner.training.tracking import Trackers, open_trackers

        trackers = Trackers([])
        if accelerator.is_main_process:
            trackers = open_trackers(
                self.settings.tracking,
                run=self.folder,
                config=settings_to_dict(self.settings),
                resume_step=found[1]["step"] if found else 0,
                pictures=lambda: sample_pictures(resources),
            )
        try:
            return fit(
                task,
                self.settings,
                accelerator=accelerator,
                run=self.folder,
                trackers=trackers,
                on_best=lambda metrics: self._export(task, resources, {"validation_at_best": metrics}),
                on_saved=self._share_checkpoint,
                resume=found,
                stopwatch=self.stopwatch,
            )
        finally:
            trackers.close()

    def _export(self, task: "CaptioningTask", resources: "Resources", metrics: dict[str, Any]) -> None:
        from captioner.api import Captioner
        from captioner.data.training_images import TrainingImages
        from captioner.export_reading import read_training_images
        from captioner.models.captioner import CaptionerModel
        from captioner.publish import export

        module = getattr(task.module, "module", task.module)
        encoder = module.encoder or resources.encoder or self.encoder.load()
        model = CaptionerModel(encoder, module.projection, module.decoder)
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
            self._evaluate(resources)
        with self.stopwatch.during(UPLOAD):
            uploaded = not self.uploads or self.uploads.finish(self.best, "The best model, with its evaluation")
        self.stopwatch.write(self.folder, step)
        return 0 if uploaded else 1

    def _evaluate(self, resources: "Resources") -> None:
        """Evaluate the best model on the test splits, put the figures into its export, show one caption."""
        from captioner.api import Captioner
        from captioner.calibration import calibrate_if_possible
        from captioner.commands.evaluate import format_evaluation
        from captioner.evaluation.caption_metrics import DEFAULT_METRICS
        from captioner.evaluation.result_files import write_result
        from captioner.publish import export
        from captioner.scoring import evaluate_captioner

        if not self.best.exists():
            raise CheckpointError(f"{self.best} could not be written; free some space and --resume {self.folder}")
        captioner = Captioner.from_pretrained(self.best)
        calibrate_if_possible(captioner, resources.dataset)
        metrics = parse_metrics(self.settings.task.metrics) if self.settings.task.metrics else DEFAULT_METRICS
        evaluations = []
        for split in (name for name, rows in resources.dataset.items() if name.startswith("test") and len(rows)):
            evaluations.append(
                evaluate_captioner(captioner, resources.dataset, split, manifest=resources.manifest, metrics=metrics)
            )
            captioner.metrics[split] = evaluations[-1].summary()
            print(format_evaluation(evaluations[-1]))
        try:
            for evaluation in evaluations:
                path = self.folder / f"evaluation-{evaluation.split}.json"
                write_result(path, evaluation.summary(), evaluation.per_image())
            export(captioner, self.best)
        except OSError as error:
            raise CheckpointError(
                f"the test figures could not be written to {self.best} ({error.strerror or error}); "
                f"free some space and go on with: {self.prog} {self.preset} --resume {self.folder}"
            ) from error
        self._show_caption(captioner, resources)

    def _show_caption(self, captioner: Any, resources: "Resources") -> None:
        from captioner.data.encoded_images import EncodedImages

        split = next(name for name in ("test", "validation") if len(resources.dataset[name]))
        image = EncodedImages(resources.dataset[split])[0]
        path = self.folder / Path(resources.dataset[split][0]["image_id"]).name
        path.write_bytes(image)
        print(f"\nA held-out picture, {path}:\n  {captioner.caption(image).text}")
        print(
            f"\nThe best model is in {self.best}. Next:\n"
            f"  caption {path}\n"
            f"  caption photos/ --model {self.best} --output captions.jsonl\n"
            f"  captioner evaluate {self.best} --split test --examples examples.png\n"
            f"  captioner report {self.folder}\n"
            f"  captioner push {self.best} me/captioner\n"
            f"  {self.prog} --help"
        )


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
