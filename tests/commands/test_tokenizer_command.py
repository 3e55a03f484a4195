"""``train_tokenizer.py``: the tokenizer that train.py will want, from the shell."""

import json

import pytest
from datasets import Dataset, DatasetDict

from captioner.commands.tokenizer import main
from captioner.data.dataset_tokenizer import open_dataset_tokenizer
from captioner.data.prepared import MANIFEST, MANIFEST_FORMAT
from captioner.data.tokenizer import CaptionTokenizer
from captioner.settings import DataSettings, Settings, TokenizerSettings

PRESETS = {
    "scenes": Settings(tokenizer=TokenizerSettings(vocabulary_size=300)),
    "flickr8k": Settings(data=DataSettings(name="flickr8k"), tokenizer=TokenizerSettings(vocabulary_size=310)),
    "flickr8k-large": Settings(data=DataSettings(name="flickr8k"), tokenizer=TokenizerSettings(vocabulary_size=320)),
}
CAPTIONS = ["A dog 's ball is red .", "Two dogs run , and jump over the fence ."]


@pytest.fixture
def data_folder(tmp_path):
    """Prepared datasets called flickr8k and my_photos; training a tokenizer needs no image of them."""
    for name in ("flickr8k", "my_photos"):
        dataset = DatasetDict({"train": Dataset.from_dict({"captions": [CAPTIONS, CAPTIONS[::-1]]})})
        dataset.save_to_disk(tmp_path / name)
        manifest = {"format": MANIFEST_FORMAT, "source": "folder", "images": {"train": 2}, "fingerprint": f"of {name}"}
        (tmp_path / name / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture
def run(data_folder):
    def run(*argv: str) -> int:
        return main([*argv, f"--data.folder={data_folder}"], presets=PRESETS)

    return run


def test_dataset_name_alone_makes_what_its_preset_wants(run, data_folder, capfd):
    assert run("--data.name", "flickr8k") == 0
    wanted = PRESETS["flickr8k"].tokenizer
    assert open_dataset_tokenizer(data_folder / "flickr8k", wanted, "of flickr8k") is not None
    shown = capfd.readouterr().out
    assert "A | dog | 's | ball | is | red" in shown
    assert "A dog's ball is red\n" in shown
    tokenizer = CaptionTokenizer.load(data_folder / "flickr8k" / "tokenizer.json")
    mean = sum(len(tokenizer.encode(caption)) for caption in CAPTIONS) / len(CAPTIONS)
    assert f"{len(tokenizer):,} tokens; {mean:.1f} a caption in 4 training captions" in shown
    assert f"{data_folder / 'flickr8k' / 'tokenizer.json'}: " in shown
    assert f"next: python train.py flickr8k --data.folder {data_folder}\n" in shown


def test_named_preset_decides_over_the_dataset_name(run, data_folder, capfd):
    assert run("flickr8k-large", "--data.name", "my_photos", "--tokenizer.keep-punctuation") == 0
    wanted = TokenizerSettings(vocabulary_size=320, keep_punctuation=True)
    assert open_dataset_tokenizer(data_folder / "my_photos", wanted, "of my_photos") is not None
    next_line = capfd.readouterr().out.splitlines()[-1]
    assert next_line.startswith("next: python train.py flickr8k-large --data.name my_photos --data.folder ")
    assert next_line.endswith(" --tokenizer.keep-punctuation")


def test_dataset_without_a_preset_of_its_own_is_noted(run, data_folder, capfd):
    assert run("--data.name", "my_photos") == 0
    assert open_dataset_tokenizer(data_folder / "my_photos", PRESETS["scenes"].tokenizer, "of my_photos") is not None
    assert "No preset is made for my_photos: taking the tokenizer settings of scenes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--tokenizer.vocabulary-size", "10"], "error: tokenizer.vocabulary_size=10 is too small; use 260 or more"),
        (["--tokenizer.vocabulary-size", "x"], "--tokenizer.vocabulary-size x: not a whole number; use one, such as"),
        (["flicker8k"], "error: flicker8k: no such preset; did you mean flickr8k? there are scenes, flickr8k,"),
        (["--data.name", "nowhere"], "nowhere: no prepared dataset there; prepare it: python prepare_dataset.py"),
    ],
)
def test_mistake_is_one_line_on_standard_error_and_status_2(run, capfd, argv, line):
    assert run(*argv) == 2
    shown, told = capfd.readouterr()
    assert shown == ""
    assert line in told.splitlines()[-1]
    assert "Traceback" not in told


def test_help_says_how_the_command_is_used(run, capfd):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    shown = capfd.readouterr().out
    assert "python train_tokenizer.py --data.name flickr8k" in shown
    assert "--tokenizer.vocabulary-size INT" in shown


def test_verb_of_captioner_names_the_verb_to_come(data_folder, capfd):
    argv = ["flickr8k", f"--data.folder={data_folder}"]
    assert main(argv, presets=PRESETS, prog="captioner tokenizer") == 0
    assert "next: captioner train flickr8k --data.folder" in capfd.readouterr().out


def test_shipped_presets_are_the_default(capfd):
    assert main(["flickr30k-clp"]) == 2
    assert "did you mean flickr30k-clip?" in capfd.readouterr().err
