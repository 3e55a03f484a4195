"""The caption tokenizer: text survives, only the training captions decide, and every library agrees."""

import json
import random
import subprocess
import sys
from collections import Counter

import pytest
import transformers
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer

from captioner.data.dataset_tokenizer import open_dataset_tokenizer, read_tokenizer_manifest, train_dataset_tokenizer
from captioner.data.tokenizer import SPECIAL_TOKENS, CaptionTokenizer
from captioner.errors import ConfigError, DataError
from captioner.settings import MINIMUM_VOCABULARY_SIZE, TokenizerSettings

CAPTIONS = [
    "A man 's dog jumps over the fence .",
    "Two men do n't look at the tri-colored dog .",
    "A dog , a cat and a woman in front of the fence",
    'A woman behind a " 3rd St " sign !',
]
SMALL = TokenizerSettings(vocabulary_size=320)
CASED = TokenizerSettings(vocabulary_size=320, lowercase=False, keep_punctuation=True, capitalise=False)


@pytest.fixture(scope="module")
def plain() -> CaptionTokenizer:
    return CaptionTokenizer.train(CAPTIONS, SMALL)


@pytest.fixture(scope="module")
def punctuated() -> CaptionTokenizer:
    return CaptionTokenizer.train(CAPTIONS, TokenizerSettings(vocabulary_size=320, keep_punctuation=True))


def make_dataset(**captions: list[str]) -> DatasetDict:
    """Splits of images with one caption each."""
    return DatasetDict(
        {split: Dataset.from_dict({"captions": [[text] for text in texts]}) for split, texts in captions.items()}
    )


def test_special_tokens_come_first_and_differ(plain):
    assert [plain.pad_id, plain.start_id, plain.end_id, plain.unknown_id] == [0, 1, 2, 3]
    assert len(plain) == 320


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A man 's dog do n't , really , jump .", "A man's dog don't really jump"),
        ("The MAN\u2019s dog isn\u2019t \u201cnice\u201d", "The man's dog isn't nice"),
        ("it\u00b4s a ``nice'' dog", "It's a nice dog"),
        ("a tri-colored dog - and -- a cat", "A tri-colored dog and a cat"),
        ("  two\tdogs\n\u00a0run\x00 ", "Two dogs run"),
        ("the dogs' 1,000.50 balls at 5:30, and/or 3.", "The dogs 1,000.50 balls at 5:30 and or 3"),
        ("Ｆｕｌｌ width ﬁne", "Full width fine"),  # noqa: RUF001
        ("Crème brûlée \U0001f436 !", "Crème brûlée \U0001f436"),
        ("2 dogs", "2 dogs"),
        (". , !", ""),
        ("", ""),
    ],
)
def test_punctuation_between_words_goes_and_words_stay_whole(plain, caption, text):
    assert plain.decode(plain.encode(caption)) == text


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A man 's dog do n't , really , jump .", "A man's dog don't, really, jump."),
        ('Behind a " 3rd St " sign ( small ) , " oh ! " said she', 'Behind a "3rd st" sign (small), "oh!" said she'),
        ('" stop " sign', '"Stop" sign'),
        ("a tri-colored dog - and a cat", "A tri-colored dog - and a cat"),
        ("really ? ; no : yes", "Really?; no: yes"),
    ],
)
def test_kept_punctuation_stands_where_it_is_written(punctuated, caption, text):
    assert punctuated.decode(punctuated.encode(caption)) == text


def test_case_is_kept_when_asked_and_capital_is_a_setting():
    tokenizer = CaptionTokenizer.train(CAPTIONS, CASED)
    ids = tokenizer.encode("the Dog DO N'T")
    assert tokenizer.decode(ids) == "the Dog DON'T"
    assert tokenizer.decode(ids, capitalise=True) == "The Dog DON'T"


@pytest.mark.parametrize("settings", [SMALL, CASED, TokenizerSettings(vocabulary_size=300, keep_punctuation=True)])
def test_random_text_survives(settings):
    tokenizer = CaptionTokenizer.train(CAPTIONS, settings)
    draw = random.Random(0)
    common = "aAzZ019 \t'\"-.,:;!?()éßİ\u2019\u201c\u00a0\u200d\U0001f436<>"
    for _ in range(400):
        length = draw.randrange(40)
        anything = [chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])) for _ in range(length)]
        text = "".join(draw.choice([draw.choice(common), character]) for character in anything)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids, capitalise=False) == tokenizer.normalise(text)
        assert tokenizer.unknown_id not in ids


def test_normalisation_equals_plain_python_on_words_and_spaces(plain):
    draw = random.Random(1)
    for _ in range(200):
        words = ["".join(draw.choices("abcXYZ\u00e9\u00c9\u03a9", k=draw.randint(1, 6))) for _ in range(5)]
        text = draw.choice([" ", "  ", "\n", " , ", " . "]).join(words)
        assert plain.normalise(text) == " ".join(words).lower()


def test_text_that_looks_like_a_special_token_is_text(punctuated):
    ids = punctuated.encode("a <end> of <pad>")
    assert not {punctuated.end_id, punctuated.pad_id} & set(ids)
    assert punctuated.decode(ids) == "A <end> of <pad>"


def test_special_tokens_are_dropped_from_decoded_text(plain):
    ids = plain.encode("a dog")
    assert plain.decode([plain.start_id, *ids, plain.end_id, plain.pad_id, plain.pad_id]) == "A dog"
    assert plain.decode([]) == ""


def test_long_caption_and_batch_equal_single_captions(plain):
    captions = ["dog " * 1250, "x" * 5000, '"' * 5000, "", CAPTIONS[0]]
    assert plain.encode_batch(captions) == [plain.encode(caption) for caption in captions]
    assert plain.decode(plain.encode(captions[0])).split() == ["Dog", *["dog"] * 1249]


def test_split_shows_the_part_behind_each_token(plain):
    parts = plain.split(CAPTIONS[0])
    assert len(parts) == len(plain.encode(CAPTIONS[0]))
    assert "".join(parts).replace(" ", "") == "Aman'sdogjumpsoverthefence"


def test_pieces_are_what_each_token_writes(plain):
    ids = plain.encode("a zebra runs é")
    pieces = plain.pieces([*ids, plain.end_id])
    assert pieces[-1] == "<end>"
    assert len(pieces) == len(ids) + 1
    whole = "".join(pieces[:-1])
    assert whole.startswith(" a zebra runs ")
    assert "".join(plain.pieces(plain.encode("a zebra runs"))) == " a zebra runs"
    assert len(plain.pieces(plain.encode("a zebra runs"))) >= 3


def test_training_twice_gives_the_same_file_in_another_process(tmp_path, plain):
    plain.save(tmp_path / "tokenizer.json")
    script = (
        "import json, sys; from captioner.data.tokenizer import CaptionTokenizer; "
        "from captioner.settings import TokenizerSettings; "
        "CaptionTokenizer.train(json.loads(sys.argv[1]), TokenizerSettings(vocabulary_size=320)).save(sys.argv[2])"
    )
    again = tmp_path / "again" / "tokenizer.json"
    subprocess.run([sys.executable, "-c", script, json.dumps(CAPTIONS), str(again)], check=True)
    assert again.read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_small_vocabulary_is_refused_with_the_minimum():
    with pytest.raises(ConfigError, match=rf"vocabulary_size=10 is too small; use {MINIMUM_VOCABULARY_SIZE} "):
        CaptionTokenizer.train(CAPTIONS, TokenizerSettings(vocabulary_size=10))
    least = CaptionTokenizer.train(CAPTIONS, TokenizerSettings(vocabulary_size=MINIMUM_VOCABULARY_SIZE))
    assert len(least) == MINIMUM_VOCABULARY_SIZE
    assert least.decode(least.encode("a dog")) == "A dog"


@pytest.mark.parametrize("settings", [SMALL, CASED])
def test_every_library_gives_the_same_ids(tmp_path, settings):
    ours = CaptionTokenizer.train(CAPTIONS, settings)
    ours.save(tmp_path / "tokenizer.json")
    bare = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for caption in [*CAPTIONS, "Crème \U0001f436 , isn\u2019t it ?", ""]:
        ids = ours.encode(caption)
        assert bare.encode(caption).ids == ids
        assert fast(caption)["input_ids"] == ids
        assert auto(caption)["input_ids"] == ids
        assert auto.decode(ids) == bare.decode(ids) == ours.decode(ids, capitalise=False)
    assert (auto.pad_token_id, auto.bos_token_id, auto.eos_token_id, auto.unk_token_id) == (0, 1, 2, 3)
    assert auto("a <end> b")["input_ids"] == ours.encode("a <end> b")


@pytest.mark.parametrize("settings", [SMALL, CASED])
def test_saved_and_loaded_is_the_same(tmp_path, settings):
    ours = CaptionTokenizer.train(CAPTIONS, settings)
    ours.save(tmp_path / "export" / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path / "export" / "tokenizer.json")
    assert loaded.to_json() == ours.to_json()
    assert loaded.decode(loaded.encode("a dog")) == ours.decode(ours.encode("a dog"))
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_interrupted_save_leaves_the_old_file(tmp_path, plain, monkeypatch):
    path = tmp_path / "tokenizer.json"
    plain.save(path)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*tokenizer\.json'"):
        CaptionTokenizer.train(CAPTIONS, CASED).save(path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_files_that_are_no_tokenizers_are_named_in_one_line(tmp_path, plain):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer\.json: no such tokenizer; make it with"):
        CaptionTokenizer.load(path)
    plain.save(path)
    whole = path.read_text()
    for torn in (whole[: len(whole) // 2], "", "[]", "{}"):
        path.write_text(torn)
        with pytest.raises(DataError, match=r"tokenizer\.json: not a whole tokenizer file .*train it again") as caught:
            CaptionTokenizer.load(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"tokenizer\.json: "):
        CaptionTokenizer.load(path)
    path.write_text(whole)
    (tmp_path / "tokenizer_config.json").write_text('{"capitalise": true,}')
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not a whole JSON file"):
        CaptionTokenizer.load(path)


def test_missing_special_tokens_are_named(tmp_path, plain):
    content = json.loads(plain.to_json())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<end>"]
    vocabulary = content["model"]["vocab"]
    vocabulary["other"] = vocabulary.pop("<end>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer lacks the special tokens <end>; train"):
        CaptionTokenizer.load(tmp_path / "tokenizer.json")


def test_no_word_of_another_split_influences_the_merges(tmp_path):
    word = "zyxoqua"
    train = CAPTIONS * 5
    dataset = make_dataset(train=train, validation=[f"{word} dog"] * 50, test=[f"a {word} {word}"] * 500)
    ours = train_dataset_tokenizer(dataset, tmp_path / "all", SMALL, "f1")
    alone = train_dataset_tokenizer(make_dataset(train=train), tmp_path / "alone", SMALL, "f1")
    assert ours.to_json() == alone.to_json()
    assert len(ours.encode(word)) > 3
    seen = CaptionTokenizer.train([*train, *[f"a {word}"] * 500], SMALL)
    assert len(seen.encode(word)) == 1


def test_dataset_tokenizer_is_found_again_only_for_the_same_origin(tmp_path):
    dataset = make_dataset(train=CAPTIONS)
    assert open_dataset_tokenizer(tmp_path, CASED, "f1") is None
    ours = train_dataset_tokenizer(dataset, tmp_path, CASED, "f1")
    found = open_dataset_tokenizer(tmp_path, CASED, "f1")
    assert found.to_json() == ours.to_json()
    assert found.capitalise is False
    assert open_dataset_tokenizer(tmp_path, SMALL, "f1") is None
    assert open_dataset_tokenizer(tmp_path, CASED, "f2") is None


def test_torn_dataset_tokenizer_counts_as_missing(tmp_path, caplog):
    train_dataset_tokenizer(make_dataset(train=CAPTIONS), tmp_path, SMALL, "f1")
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert open_dataset_tokenizer(tmp_path, SMALL, "f1") is None
    path.write_text(whole)
    assert open_dataset_tokenizer(tmp_path, SMALL, "f1") is not None
    (tmp_path / "tokenizer.manifest.json").write_text('{"settings":')
    assert open_dataset_tokenizer(tmp_path, SMALL, "f1") is None
    assert "tokenizer.manifest.json: not a whole JSON file" in caplog.text


def test_manifest_says_what_the_tokenizer_was_made_from(tmp_path):
    ours = train_dataset_tokenizer(make_dataset(train=CAPTIONS, test=["a cat"]), tmp_path, SMALL, "f1")
    manifest = read_tokenizer_manifest(tmp_path)
    assert manifest["settings"]["vocabulary_size"] == 320
    assert manifest["dataset_fingerprint"] == "f1"
    assert manifest["vocabulary_size"] == len(ours) == 320
    assert manifest["captions"] == len(CAPTIONS)
    assert manifest["mean_tokens"] == sum(len(ours.encode(caption)) for caption in CAPTIONS) / len(CAPTIONS)
    with pytest.raises(DataError, match="no such file; make the tokenizer with"):
        read_tokenizer_manifest(tmp_path / "nowhere")


def test_dataset_without_captions_is_refused(tmp_path):
    with pytest.raises(DataError, match="the training split has no captions"):
        train_dataset_tokenizer(make_dataset(train=[" ", ""]), tmp_path, SMALL, "f1")
    assert not (tmp_path / "tokenizer.json").exists()


def test_vocabulary_holds_each_special_token_once(plain):
    vocabulary = json.loads(plain.to_json())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(320))
    assert Counter(token for token in vocabulary if token in SPECIAL_TOKENS) == Counter(SPECIAL_TOKENS)
