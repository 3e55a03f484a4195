"""Results in the Hub's ``model-index`` form: https://huggingface.co/docs/hub/model-cards#evaluation-results."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index


def eval_results(splits: Mapping[str, Mapping[str, Any]], *, dataset: str) -> list[EvalResult]:
    """One result a split and metric, with the images it is of and its 95 % confidence interval where there is one.

    Arguments:
        splits: summaries of evaluations, by a name of the split.
        dataset: the name of the dataset, where a summary has none.
    """
    results = []
    for split, found in splits.items():
        name = found.get("dataset") or dataset
        intervals = found.get("confidence_intervals", {})
        for metric, value in found["metrics"].items():
            interval = [round(edge, 4) for edge in intervals.get(metric, ())]
            results.append(
                EvalResult(
                    task_type="image-to-text",
                    dataset_type=name,
                    dataset_name=name,
                    dataset_split=found.get("split") or split,
                    dataset_args={"images": found["set"]} if "set" in found else None,
                    metric_type=metric.lower(),
                    metric_name=metric,
                    metric_value=round(value, 4),
                    metric_args={"confidence_interval_95": interval} if interval else None,
                )
            )
    return results


def model_index(model: str, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ``model-index`` of one evaluation.

    Arguments:
        model: the model's name.
        summary: of the evaluation.
    """
    results = eval_results({summary["split"]: summary}, dataset=summary["dataset"])
    return eval_results_to_model_index(model, results)
