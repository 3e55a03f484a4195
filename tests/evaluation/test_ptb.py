# ruff: noqa: RUF001 - typographic quotes and dashes are what is tested here
import importlib.util
import operator
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from captioner.evaluation import ptb
from captioner.evaluation.ptb import tokenize

# Captions and what Stanford's PTBTokenizer 3.4.1 makes of them, less COCO's list of punctuation. They are compared with
# the Java program itself where that can be run.
CASES = [
    (
        "A child in a pink dress is climbing up a set of stairs in an entry way .",
        "a child in a pink dress is climbing up a set of stairs in an entry way",
    ),
    ("Two dogs, one black; one white: play!", "two dogs one black one white play"),
    ("A man's dog isn't John's, is it?", "a man 's dog is n't john 's is it"),
    ("The sign says \"Stop\" and 'go'.", "the sign says stop and go"),
    ("wait... what . . . ok -- no - yes — dash – en foo--bar", "wait what ok no yes dash en foo bar"),
    (
        "A black-and-white dog, a t-shirt, a 5-year-old and a merry-go-round.",
        "a black-and-white dog a t-shirt a 5-year-old and a merry-go-round",
    ),
    ("(a man) [on] {the} beach", "-lrb- a man -rrb- -lsb- on -rsb- -lcb- the -rcb- beach"),
    ("Wow!! Really?! Yes??", "wow !! really ?! yes ??"),
    (
        "can't won't shan't CAN'T it's IT’S I'd've they'll you’re",
        "ca n't wo n't sha n't ca n't it 's it 's i 'd 've they 'll you 're",
    ),
    ("I cannot go, gonna gotta wanna lemme gimme", "i can not go gon na got ta wan na lem me gim me"),
    (
        "'tis 'twas 'n' 'em 'til 'cause ol' y'all ma'am o'clock",
        "'t is 't was 'n' 'em 'til 'cause ol' y' all ma'am o'clock",
    ),
    (
        "rock'n'roll D'Angelo O'Neil's l'eau hors d'oeuvres jack-o'-lantern",
        "rock 'n' roll d'angelo o'neil 's l'eau hors d'oeuvres jack-o lantern",
    ),
    ("dogs' toys the '80s and 80's and 1980s 5'10 tall", "dogs toys the '80s and 80 's and 1980s 5 '10 tall"),
    ("we'rex don`t dog´s isn't-a dog.don't mann't", "we rex do n`t dog ´ s is n't a dog.don t mann t"),
    (
        "Mr. and Mrs. Smith met Dr. King of the U.S. on St. Mark's Blvd. etc.",
        "mr. and mrs. smith met dr. king of the u.s. on st. mark 's blvd. etc.",
    ),
    ("9 a.m. and 5 p.m. in Washington D.C. vs. Jr.", "9 a.m. and 5 p.m. in washington d.c. vs. jr."),
    ("No. 5 no.7 No. five Fig. 3 ca. 1900", "no. 5 no. 7 no five fig. 3 ca. 1900"),
    ("A.B. Jones, M.D., Ph.D. and J. K. Rowling", "a.b. jones m.d. ph.d. and j. k. rowling"),
    ("Ill. ill. Miss. miss. Mass. mass.", "ill. ill miss. miss mass. mass"),
    ("word., word. , foo.bar.", "word. word foo.bar"),
    ("Plan B. The dog plan B. the dog U.S. The", "plan b the dog plan b. the dog u.s. the"),
    ("1/2 cup 1 1/2 cups ½ 3/4-inch 1-1/2", "1/2 cup 1\xa01/2 cups 1/2 3/4-inch 1-1/2"),
    ("$5.00 5% £20 €5 5¢ US$5 A$5 #1", "$ 5.00 5 % # 20 $ 5 5 cents us$ 5 a$ 5 # 1"),
    ("9:30 9:30pm 10:00 a.m. 3pm 5:00-6:00", "9:30 9:30 pm 10:00 a.m. 3pm 5:00 -6:00"),
    (
        "10,000 3rd 21st 4x4 2-3 50/50 12/25/2014 (555) 555-1234 .5 -5",
        "10,000 3rd 21st 4x4 2-3 50/50 12/25/2014 -lrb-555-rrb-\xa0555-1234 .5 -5",
    ),
    ("6' 2\" 5'6\" 1.5-liter 1,000-foot 5. 5.5.", "6 2 5 6 1.5-liter 1,000-foot 5 5.5"),
    ("A&M AT&T R&B h&m Q&A&M x&y", "a&m at&t r&b h & m q&a&m x & y"),
    ("and/or w/o b/c red/white/blue a/b/c/d", "and/or w/o b/c red/white/blue a/b/c / d"),
    (
        "joe@foo.com www.foo.com/bar http://foo.com/x?y=1. foo.com @user #tag #1",
        "joe@foo.com www.foo.com/bar http://foo.com/x?y=1 foo.com @user #tag # 1",
    ),
    ("photo.jpg no.yes what?yes .txt C++ C# F-16", "photo.jpg no.yes what?yes txt c++ c# f-16"),
    ("snake_case _a a_ * ** ## @@ << >> \\ ~ ^ = + _ |", "snake_case _ a a _ * ** ## @@ << >> \\ ~ ^ = + _ |"),
    ('<b> bold </b> <a href="x"> a<b <3 < a >', '<b> bold </b> <a\xa0href="x"> a < b < 3 < a >'),
    ("&amp; &lt; &gt; &quot;a&quot; it&apos;s &nbsp; caf&eacute; A&amp;M &#39;", "& < > a it 's caf&eacute; a&m &#39;"),
    ("café naïve Zoë ñandú Ångström 東京", "café naïve zoë ñandú ångström 東京"),
    ("😀 dog 👍🏽 ★ ♥ ❤️ ™ ® © ° × ²", "dog ★ ♥ ❤ ™ ® © ° × ²"),
    ("“a” ‘b’ «c» “” ’” ``d'' … •", "a b c ``'' ''' d' •"),
    ("-lrb- -LRB- -RRB- ----- ---", "-lrb- -lrb- -rrb- -----"),
    (":) :-( ;) :D <:) ^_^ -_- (^_^) =) :/", ":-rrb- :--lrb- ;-rrb- :d <:-rrb- ^_^ -_- -lrb-^_^-rrb- =-rrb- /"),
    ("co\xadop soft\xadhyphen zero\u200bwidth", "coop softhyphen zero width"),
    ("e’s", "e 's"),
    ("pro- and Anti-, pre- non-", "pro- and anti- pre non"),
    ("&LT;a&Gt; A&AMP;M &Mdash; &NBSP; &Quot; it&APOS;s", "< a > a&m &quot; it &apos;s"),
    ("No. ３ ３/４ ٣:٣ .３ m²² H₂O", "no. ３\xa0３/４ ٣:٣ .３ m ²² h ₂ o"),
    ("Http://foo.com a\u2003foo.com me@foo.com\u2003x", "http://foo.com a\u2003foo.com me@foo.com\u2003x"),
    ("can't\xadbe B's\xadx 2x4\xadx dog\xad.\xad file.txt #a\xadb", "ca n't be b 's x 2x4 x dog. file.txt #a\xadb"),
    ('<img alt="(a dog)"> (---) (^-^) (-_-)', '<img\xa0alt="(a\xa0dog)"> -lrb- -rrb- -lrb-^-^-rrb- -lrb--_--rrb-'),
    ("Cap'n Crunch, CAP’N recap'n", "cap'n crunch cap’n recap 'n"),
    ("A&M., R&B.; rock'n\u2003roll &eacute;y'all", "a&m. r&b. rock n roll &eacute;y all"),
    ("1\x851/2 a\x1cb I.\u202fThe dog", "1 1/2 a b i. the dog"),
]
# What may stand side by side in a caption, with and without a space: every kind of token that the tokenizer knows.
HARD = """
a the man dog's dogs' isn't cannot it's we're I'd Mr. Jr. etc. U.S. a.m. e.g. No. B. x. The He gonna 'em 'n' rock'n'roll
o'clock y'all O'Neil t-shirt 5-year-old A&M 1/2 1 2 10 1,000 3.5 .5 1990s '80s 1st 4x4 9:30 10:45am $5 50% 5¢ £20 #5
#hashtag @user joe@foo.com www.foo.com http://foo.com/x?y=1 red/white w/ 12/25/2014 (red) [sic] {x} <b> & + = * _ ~ ^ %
/ | " ' `` '' ` ’ ‘ “ ” — – - -- --- ----- ... .. . , ; : ! ? !! … :) :-( <3 ^_^ é café naïve 😀 ° ™ × ½ • 6' 5'10" MP3
C++ s'mores 'til 'tis d'oeuvres l'eau D'Angelo 2-3 555-1234 (555) 5° -lrb- &amp; &quot; &apos; &lt; &#39; a.py 1.5-liter
U.S.-based Cap'n isn’t it’s o’clock fig. ill. Ill. Miss. St.John's
"""
PIECES = HARD.split()


def make_hard_lines(count, seed):
    generator = random.Random(seed)
    return [
        "".join(generator.choice(PIECES) + generator.choice(["", " ", " "]) for _ in range(generator.randint(2, 9)))
        for _ in range(count)
    ]


def run_java(lines):
    """What the tokenizer of COCO's evaluation gives; skips the test where there is no Java."""
    java, package = shutil.which("java"), importlib.util.find_spec("pycocoevalcap")
    if java is None:
        pytest.skip("there is no Java to compare with")
    folder = Path(package.submodule_search_locations[0]) / "tokenizer"
    command = [java, "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", "stanford-corenlp-3.4.1.jar"]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    result = subprocess.run(
        command, cwd=folder, input="\n".join(lines).encode(), capture_output=True, timeout=120, check=True
    )
    # From pycocoevalcap's wrapper.
    removed = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
    removed += [".", "?", "!", ",", ":", "-", "--", "...", ";"]
    tokenized = [line.rstrip().split(" ") for line in result.stdout.decode().split("\n")]
    return [" ".join(token for token in tokens if token not in removed) for tokens in tokenized[: len(lines)]]


@pytest.mark.parametrize(("caption", "tokens"), CASES)
def test_captions_are_tokenized_as_in_coco(caption, tokens):
    assert tokenize([caption, "x"])[0] == tokens


def test_java_agrees_with_the_cases_and_on_hard_lines():
    lines = [caption for caption, _ in CASES] + make_hard_lines(3000, seed=0)
    tokenized = tokenize(lines)
    assert len(tokenized) == len(lines)
    java = run_java(lines)
    assert [(line, *pair) for line, *pair in zip(lines, java, tokenized, strict=True) if pair[0] != pair[1]] == []


def test_known_words_give_what_all_rules_give(monkeypatch):
    """Plain words and runs of characters are looked up; the rules at every place of the text are the slow way."""
    others = ["A dog don'tx.", "swi&apos;ng.", "A dog", "word-fig.", "5 dogs", "a. .", "x"]
    lines = make_hard_lines(2000, seed=1) + others
    fast = tokenize(lines)
    always, never = re.compile(""), re.compile("(?!)")
    for name, pattern in (("_PLAIN", never), ("_HINTS_AT_CONTEXT", always), ("_NEEDS_CONTEXT", always)):
        monkeypatch.setattr(ptb, name, pattern)
    assert tokenize(lines) == fast


@pytest.mark.slow
def test_java_agrees_on_many_hard_lines():
    lines = make_hard_lines(60_000, seed=2)
    assert sum(map(operator.ne, run_java(lines), tokenize(lines))) <= len(lines) // 10_000


def test_next_caption_decides_about_initials_and_numbers():
    assert tokenize(["This is plan B.", "The dog runs"]) == ["this is plan b", "the dog runs"]
    assert tokenize(["This is plan B.", "A dog runs"]) == ["this is plan b", "a dog runs"]
    assert tokenize(["This is plan B.", "Dogs run"]) == ["this is plan b.", "dogs run"]
    assert tokenize(["He says no.", "5 dogs"]) == ["he says no.", "5 dogs"]
    assert tokenize(["He says no.", "Five dogs"]) == ["he says no", "five dogs"]


def test_every_caption_keeps_its_place():
    captions = ["", "a\ndog", " . ", "a\u2028b\rc", "\u00ad", "  x  ", "\x00", "end"]
    assert tokenize(captions) == ["", "a dog", "", "a b c", "", "x", "", "end"]
    assert tokenize([]) == []


def test_fast_enough_for_an_evaluation():
    """A quarter of COCO's 155,000 captions, in ten times what an idle core takes."""
    words = CASES[2][0].split() + CASES[5][0].split()
    generator = random.Random(0)
    captions = [" ".join(generator.choices(words, k=11)) for _ in range(40_000)]
    began = time.process_time()
    tokenize(captions)
    assert time.process_time() - began < 10
