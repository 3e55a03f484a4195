import pytest

from captioner.evaluation.meteor.normalisation import normalise

PREFIXES = {"Mr": False, "vs": False, "No": True}

# As METEOR 1.5's jar has them.
CASES = [
    ("a dog", "a dog"),
    ("  A  DOG\t", "a dog"),
    ("the man 's dog", "the man ' s dog"),
    ("the man's dog", "the man 's dog"),
    ("ca n't", "ca n 't"),
    ("1990's 7's", "1990 's 7 's"),
    ("the dogs ' bone", "the dogs ' bone"),
    ("black-and-white", "black and white"),
    ("a-b-c", "a b-c"),
    ("-lrb- x", "-lrb- x"),
    ("5 -- 6 \u2013 7", "5 - 6 - 7"),
    ("3,000 a,b 1,b", "3,000 a , b 1 , b"),
    ("$5 & 50%", "$ 5 & 50 %"),
    ("``hi'' \u201cyo\u201d \u2018q\u2019", '" hi " " yo " \' q \''),
    ("u.s.-based", "us based"),
    ("the U.S.", "the us"),
    ("Mr. Smith vs. Jones", "mr. smith vs. jones"),
    ("No. 5 No. Five", "no. 5 no . five"),
    ("end. Then", "end . then"),
    ("inc. said", "inc. said"),
    ("wait... what..", "wait ... what .."),
    (".", "."),
    ("x\u00a0y\u3000z", "x y z"),
    ("\u00c9t\u00e9 \u65e5\u672c \U0001f600", "\u00e9t\u00e9 \u65e5 \u672c \U0001f600"),
    ("", ""),
]


@pytest.mark.parametrize(("caption", "words"), CASES)
def test_words_are_those_of_the_jar(caption, words):
    assert normalise(caption, PREFIXES) == words.split()
