"""The end of a training run: its best model evaluated, exported with its figures, and shown at work."""

from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import DISK_FULL, CheckpointError
from captioner.settings import Settings
from captioner.settings_checks import parse_metrics

if TYPE_CHECKING:
    from captioner.api import Captioner
    from captioner.resources import Resources


def finish_run(run: Path, resources: "Resources", settings: Settings, *, prog: str, again: str) -> None:
    """Evaluate a run's best model on the test splits, put the figures into its export, show one caption.

    Args:
        run: its folder.
        resources: what it was made from.
        settings: the run's.
        prog: the program, for what is said to the user.
        again: the command that does this once more.

    Raises CheckpointError where the best model or its figures could not be written.
    """
    from captioner.api import Captioner
    from captioner.calibration import calibrate_if_possible
    from captioner.commands.evaluate import format_evaluation
    from captioner.evaluation.caption_metrics import DEFAULT_METRICS
    from captioner.evaluation.result_files import write_result
    from captioner.publish import export
    from captioner.scoring import evaluate_captioner

    best = run / "best"
    if not best.exists():
        raise CheckpointError(f"{best} could not be written, see above; mend that and go on with: {again}")
    captioner = Captioner.from_pretrained(best)
    calibrate_if_possible(captioner, resources.dataset)
    metrics = parse_metrics(settings.task.metrics) if settings.task.metrics else DEFAULT_METRICS
    evaluations = []
    for split in (name for name, rows in resources.dataset.items() if name.startswith("test") and len(rows)):
        evaluations.append(
            evaluate_captioner(captioner, resources.dataset, split, manifest=resources.manifest, metrics=metrics)
        )
        captioner.metrics[split] = evaluations[-1].summary()
        print(format_evaluation(evaluations[-1]))
    try:
        for evaluation in evaluations:
            write_result(run / f"evaluation-{evaluation.split}.json", evaluation.summary(), evaluation.per_image())
        export(captioner, best)
    except OSError as error:
        raise CheckpointError(
            f"the test figures could not be written to {best} ({error.strerror or error}); "
            f"{'free some space' if error.errno in DISK_FULL else 'mend that'} and go on with: {again}"
        ) from error
    _show_caption(run, captioner, resources, prog)


def _show_caption(run: Path, captioner: "Captioner", resources: "Resources", prog: str) -> None:
    from captioner.data.encoded_images import EncodedImages

    split = next(name for name in ("test", "validation") if len(resources.dataset[name]))
    image = EncodedImages(resources.dataset[split])[0]
    path, best = run / Path(resources.dataset[split][0]["image_id"]).name, run / "best"
    path.write_bytes(image)
    print(f"\nA held-out picture, {path}:\n  {captioner.caption(image).text}")
    print(
        f"\nThe best model is in {best}. Next:\n"
        f"  caption {path}\n"
        f"  caption photos/ --model {best} --output captions.jsonl\n"
        f"  captioner evaluate {best} --split test --examples examples.png\n"
        f"  captioner report {run}\n"
        f"  captioner push {best} me/captioner\n"
        f"  {prog} --help"
    )
