"""Settings: every problem is told at once with its remedy, and files hold them without loss."""

import json
from dataclasses import replace

import pytest

from captioner.errors import ConfigError
from captioner.evaluation.caption_metrics import METRICS
from captioner.settings import METRIC_NAMES, MINIMUM_VOCABULARY_SIZE, Settings, setting_types, setting_values
from captioner.settings_checks import LEAST, MOST, check_settings, describe_type, nearest_name, parse_metrics
from captioner.settings_json import changed_settings, settings_from_dict, settings_to_dict


def change(**values: object) -> Settings:
    """The default settings with ``group__leaf=value`` changed."""
    settings = Settings()
    for path, value in values.items():
        group, leaf = path.split("__")
        settings = replace(settings, **{group: replace(getattr(settings, group), **{leaf: value})})
    return settings


def test_default_settings_are_right():
    check_settings(Settings())


def test_mistake_of_a_preset_is_not_its_own_remedy():
    wrong = change(optim__lr=-1.0)
    with pytest.raises(ConfigError, match=r"optim\.lr=-1\.0 is not above 0; the default is 0\.0003"):
        check_settings(wrong, defaults=wrong)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"decoder__width": 500}, "decoder.width=500 is not divisible by heads=8; use 496 or 504"),
        ({"decoder__width": 5}, "decoder.width=5 is not divisible by heads=8; use 8"),
        (
            {"decoder__positions": "rotary", "decoder__width": 40},
            "decoder.width=40 is not divisible by heads=8 into even parts, which rotary positions need; use 32 or 48",
        ),
        ({"tokenizer__vocabulary_size": 10}, "tokenizer.vocabulary_size=10 is too small; use 260 or more"),
        ({"optim__lr": 0.0}, "optim.lr=0.0 is not above 0; the default is 0.0003"),
        ({"optim__lr": float("nan")}, "optim.lr=nan is not above 0; the default is 0.0003"),
        ({"optim__lr": float("inf")}, "optim.lr=inf is not above 0; the default is 0.0003"),
        ({"optim__lr": "high"}, "optim.lr='high' is not a number"),
        ({"optim__betas": (0.9, 1.0)}, "optim.betas=(0.9, 1.0) are not in [0, 1); the default is (0.9, 0.98)"),
        ({"optim__betas": (0.9,)}, "optim.betas=(0.9,) is not 2 numbers"),
        ({"optim__weight_decay": float("nan")}, "optim.weight_decay=nan is no finite number; use 0 or more"),
        ({"decoder__dropout": 1.0}, "decoder.dropout=1.0 is not in [0, 1); the default is 0.1"),
        ({"task__label_smoothing": -0.1}, "task.label_smoothing=-0.1 is not in [0, 1); the default is 0.1"),
        (
            {"optim__layer_decay": 0.0},
            "optim.layer_decay=0.0 is not in (0, 1]; use 1 for the same rate in all layers",
        ),
        (
            {"encoder__gradient_checkpointing": True},
            "encoder.gradient_checkpointing saves nothing with a frozen encoder; drop it or set encoder.trainable",
        ),
        ({"optim__ema": 1.0}, "optim.ema=1.0 is not in [0, 1); the default is 0.0"),
        ({"schedule__warmup": 1.5}, "schedule.warmup=1.5 is not a share in [0, 1]; the default is 0.05"),
        ({"schedule__kind": "cosin"}, "schedule.kind='cosin' is not one of cosine, linear, constant"),
        ({"trainer__overwrite": 1}, "trainer.overwrite=1 is not true or false"),
        ({"trainer__epochs": True}, "trainer.epochs=True is not a whole number"),
        (
            {"decoding__max_length": 65},
            "decoding.max_length=65 is above decoder.max_length=64; lower the first or raise the second",
        ),
        (
            {"decoding__min_length": 30},
            "decoding.min_length=30 leaves no room in decoding.max_length=30, which counts the end token too; "
            "use at most 29",
        ),
        (
            {"decoding__samples": 1, "decoding__temperature": 1e-40},
            "decoding.temperature=1e-40 is not in [0.01, 100]; the default is 1.0",
        ),
        (
            {"decoding__samples": 1, "decoding__temperature": 1e300},
            "decoding.temperature=1e+300 is not in [0.01, 100]; the default is 1.0",
        ),
        (
            {"decoding__samples": 1, "decoding__seed": 2**63},
            f"decoding.seed={2**63} is too large; use {2**63 - 1} or less",
        ),
        ({"decoding__length_penalty": 300.0}, "decoding.length_penalty=300.0 is too large; use 10 or less"),
        ({"decoding__beams": 10**15}, f"decoding.beams={10**15} is too large; use 1000 or less"),
        (
            {"decoding__beam_groups": 3, "decoding__diversity": 1e300},
            "decoding.diversity=1e+300 is too large; use 1000 or less",
        ),
        (
            {"data__name": "my/photos"},
            "data.name='my/photos' is not a plain folder name; put the rest of the path into data.folder",
        ),
        ({"data__name": ""}, "data.name='' is not a plain folder name; put the rest of the path into data.folder"),
        (
            {"trainer__run": ".."},
            "trainer.run='..' is not a plain folder name; put the rest of the path into trainer.folder",
        ),
        (
            {"projection__kind": "liner"},
            "projection.kind=liner is unknown; did you mean linear? known: linear, mlp, bottleneck, residual_mlp",
        ),
        ({"task__name": "xyz"}, "task.name=xyz is unknown; known: captioning"),
        (
            {"task__metrics": "BLEU,WER"},
            "task.metrics=BLEU,WER: choose from BLEU, ROUGE-L, CIDEr-D, CIDEr, METEOR, SPICE, diversity, length, "
            "separated by commas",
        ),
        ({"trainer__device": "gpu"}, "trainer.device=gpu is unknown; use auto, cpu, cuda, cuda:1 or mps"),
        ({"hub__checkpoints": True}, "hub.checkpoints has nowhere to go; set hub.repo_id to a repository, or drop it"),
        ({"hub__repo_id": "a/b/c"}, "hub.repo_id=a/b/c is no repository; use owner/name"),
        ({"encoder__name": ""}, "encoder.name is empty; give a Hub id, a local folder, or encoder.config"),
        (
            {"encoder__config": '{"hidden_size": 8}'},
            'encoder.config has no model_type; use one like {"model_type": "vit", "hidden_size": 64}',
        ),
    ],
)
def test_wrong_value_is_named_with_its_remedy(changes, problem):
    with pytest.raises(ConfigError) as caught:
        check_settings(change(**changes))
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("text", "names"), [("BLEU,CIDEr", ("BLEU", "CIDEr")), ("cider-d, rouge-l,", ("CIDEr-D", "ROUGE-L")), ("a,b", None)]
)
def test_names_of_metrics(text, names):
    if names:
        assert parse_metrics(text) == names
        return
    with pytest.raises(ConfigError, match=r"^--metrics a,b: choose from BLEU, .*, separated by commas$"):
        parse_metrics(text)


def test_the_names_of_metrics_are_the_evaluations():
    assert list(METRICS) == [*METRIC_NAMES]


def test_encoder_config_with_a_trailing_comma_is_told():
    with pytest.raises(ConfigError, match=r"encoder\.config is not JSON \(.*line 1 column \d+.*\); use one like"):
        check_settings(change(encoder__config='{"model_type": "vit",}'))


def test_tracking_needs_a_project():
    with pytest.raises(ConfigError, match=r"tracking\.project is empty"):
        check_settings(change(tracking__wandb=True, tracking__project=""))


def test_all_problems_are_raised_at_once():
    with pytest.raises(ConfigError) as caught:
        check_settings(change(decoder__width=500, optim__lr=-1.0, data__name="a/b", trainer__epochs=0))
    named = [problem.split("=")[0] for problem in caught.value.problems]
    assert sorted(named) == ["data.name", "decoder.width", "optim.lr", "trainer.epochs"]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", LEAST)
def test_every_least_value_is_allowed_and_one_below_is_not(path):
    group, leaf = path.split(".")
    # Values that depend on others: a width of one has one head, and decoding may not outrun the decoder.
    others = {"decoder__heads": 1, "decoding__max_length": 2, "decoding__min_length": 0} if leaf != "max_length" else {}
    others |= {"decoding__max_length": 1, "decoding__min_length": 0} if leaf == "max_length" else {}
    others |= {"decoding__beam_groups": 3} if leaf == "diversity" else {}
    check_settings(change(**(others | {f"{group}__{leaf}": LEAST[path]})))
    with pytest.raises(ConfigError, match=rf"{leaf}={LEAST[path] - 1} is too small; use {LEAST[path]} or more"):
        check_settings(change(**(others | {f"{group}__{leaf}": LEAST[path] - 1})))


@pytest.mark.parametrize("path", MOST)
def test_every_most_value_is_allowed_and_more_is_not(path):
    group, leaf = path.split(".")
    others = {"decoding__samples": 1} if leaf in ("seed", "top_k") else {}
    others |= {"decoding__beam_groups": 3} if leaf == "diversity" else {}
    check_settings(change(**(others | {f"{group}__{leaf}": MOST[path]})))
    with pytest.raises(ConfigError, match=rf"{leaf}={MOST[path] + 1} is too large; use {MOST[path]} or less"):
        check_settings(change(**(others | {f"{group}__{leaf}": MOST[path] + 1})))


def test_settings_survive_json():
    settings = change(optim__betas=(0.8, 0.9), decoder__width=64, encoder__name="föö", trainer__overwrite=True)
    assert settings_from_dict(json.loads(json.dumps(settings_to_dict(settings)))) == settings


def test_settings_missing_from_a_file_keep_their_defaults():
    assert settings_from_dict({}) == Settings()
    assert settings_from_dict({"decoder": {"width": 64}}) == change(decoder__width=64)


def test_unknown_names_and_wrong_types_in_a_file_are_all_told():
    content = {
        "decodr": {},
        "decoder": {"widht": 64, "heads": "8", "positions": "sinusoidal"},
        "optim": 3,
        "data": {"zzz": 1},
    }
    with pytest.raises(ConfigError) as caught:
        settings_from_dict(content)
    assert caught.value.problems == (
        "decodr: no such setting in this version of captioner; did you mean decoder?",
        "decoder.widht: no such setting in this version of captioner; did you mean decoder.width?",
        "decoder.heads='8' is not a whole number",
        "decoder.positions='sinusoidal' is not one of learned, rotary",
        "optim=3 is not a group of settings; it has lr, encoder_lr, layer_decay, weight_decay, betas, clip_norm, ema",
        "data.zzz: no such setting in this version of captioner; remove it",
    )


def test_whole_numbers_are_numbers_in_a_file():
    assert settings_from_dict({"optim": {"lr": 1}}).optim.lr == 1


def test_differences_name_old_and_new_values():
    assert changed_settings(Settings(), Settings()) == {}
    assert list(changed_settings(Settings(), change(optim__lr=0.001, data__name="flickr8k")).values()) == [
        "data.name: 'scenes' -> 'flickr8k'",
        "optim.lr: 0.0003 -> 0.001",
    ]


def test_every_setting_has_a_type_that_can_be_described():
    assert dict(setting_values(Settings())).keys() == setting_types().keys()
    assert all(describe_type(kind) for kind in setting_types().values())


def test_nearest_name_offers_only_near_names():
    assert nearest_name("flickr8", ["scenes", "flickr8k"]) == "flickr8k"
    assert nearest_name("qqq", ["scenes", "flickr8k"]) is None


def test_least_vocabulary_holds_bytes_and_special_tokens():
    assert MINIMUM_VOCABULARY_SIZE == 256 + 4
