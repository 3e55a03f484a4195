"""Penn-Treebank caption tokenization as COCO's evaluation does it, without Java.

COCO's evaluation runs Stanford's PTBTokenizer 3.4.1 with ``-preserveLines -lowerCase``
(https://nlp.stanford.edu/software/tokenizer.html) and drops a list of punctuation tokens. This file reproduces its
observable output, quirks included: brackets stay as ``-lrb-``, ``??`` stays, a mixed number keeps a no-break space, and
the first word of the next caption decides whether "B." keeps its period.

Like any lexer of its kind it takes, at each place, the rule with the longest match, the earlier rule at a tie. A rule's
first group is its token; what it matches behind the token is context, which counts for the length.
"""

import re
from collections.abc import Sequence

_REMOVED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that COCO's evaluation removes. Its list also names -LRB- and the like, which lower-casing hides from it."""

_LINE_BREAKS = re.compile(r"\r\n|[\n\r\x0b\x0c\u2028\u2029]")
_SPACE = r"[\t-\r \u0085\u00a0\u2000-\u200a\u2028\u2029\u3000]"
_APOSTROPHE = "(?:['\u2019\u0092]|&(?i:apos);)"
_QUOTE = "[`\u0091-\u0094\u00ab\u00bb\u2018-\u201f\u2039\u203a]"
_ANY_APOSTROPHE = "(?:['`\u2018\u2019\u201b\u0091\u0092]|&(?i:apos);)"
_ALNUM = (
    r"[^\W_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u2189\u2460-\u24ff\u2776-\u2793\U00010000-\U0010ffff]"
)
_LETTER_OR_DIGIT = rf"(?:{_ALNUM}|[\u00ad\u02c2-\u036f]|&(?i:[aeiou](?:acute|grave|uml));)"
_PLAIN_LETTER = rf"(?:(?!\d){_ALNUM})"
_LETTER = rf"(?:(?!\d){_LETTER_OR_DIGIT})"
_WORD = rf"{_LETTER}{_LETTER_OR_DIGIT}*(?:[.!?]{_LETTER}{_LETTER_OR_DIGIT}*)*"
_HYPHEN = r"[-\u058a\u2010\u2011]"
_THING_START = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?"
_THING = rf"{_THING_START}{_ALNUM}+(?:(?:{_HYPHEN}|_){_THING_START}{_ALNUM}+)*"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\u00ad]+))+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_JOINED_CAPITALS = r"[A-Z]+(?:(?:&(?i:amp);|[+&])[A-Z]+)+"
_CLITIC = rf"{_APOSTROPHE}(?:[msdMSD]|re|ve|ll|RE|VE|LL|Re|Ve|Ll)"
_NOT = rf"[nN]{_ANY_APOSTROPHE}[tT]"
_DIGIT = r"[^\D\U00010000-\U0010ffff]"
_NUMBER = rf"(?:{_DIGIT}*(?:[.:,\u00ad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_TAG_VALUE = r"[ ]*=[ ]*(?:'[^'\n]*'|\"[^\"\n]*\")"
_BLANK = r"\t-\r "
_URL_TAIL = rf'(?:/[^{_BLANK}"<>|()]+[^{_BLANK}"<>|.!?(){{}},-])?'
_FILE_KIND = (
    "(?i:bat|bmp|cgi|class|cpp|c|dll|docx|doc|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|"
    "tar|txt|wav|xml|x|zip)"
)

# Abbreviations that can end a sentence; the second line's are other words without their capital.
_FINAL_ABBREVIATION = (
    "(?i:al|ala|apr|ariz|assn|aug|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|ed\\.d|esq|est|etc|ext|feb|"
    "fla|fri|ga|inc|ind|intl|jan|jr|jul|jun|kan|kans|ky|ltd|mar|md|mich|minn|mo|mon|mont|neb|nev|nov|oct|okla|penn|"
    "ph\\.d|plc|ppte|ppty|pte|ptes|pty|ptys|rd|rt|sep|sept|seq|sq|sr|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vt|wed|wis|"
    "wisc|wyo)"
    "|(?:A(?i:rk)|A(?i:z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass)|M(?i:iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))"
)
# Abbreviations that something always follows.
_OPEN_ABBREVIATION = (
    "(?i:adj|adm|adv|alex|assoc|asst|atty|ave|brig|capt|cf|cie|cmdr|col|comdr|cpl|dept|det|dr|drs|elec|ens|ft|gen|gov|"
    "govs|hon|insp|invt|jos|lt|maj|messrs|mfg|mlle|mme|mr|mrs|ms|msgr|mt|mtg|natl|pfc|ph|pres|prof|pvt|rep|reps|rev|sen|"
    "sens|sfc|sgt|spc|st|ste|supt|vs|wm)"
)
_NUMBER_ABBREVIATION = "(?i:art|ca|figs?|nos?|op|pp|prop)"
# Lines in which tokens may depend on what follows the white space behind them, in this or the next line, or go on over
# it: tags, mixed numbers, telephone numbers, spaced ellipses, abbreviations before numbers, initials, unusual spaces.
_NEEDS_CONTEXT = re.compile(
    rf"[<\x1c-\x1f\u0085\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]|[\d)] \d|\.\s+[.\d]|{_NUMBER_ABBREVIATION}\.$"
    rf"|(?:(?<![A-Za-z])|{_ANY_APOSTROPHE}\S*)[A-Za-z]\.(?:\s|$)"
)
# Every such line has one of these runs of characters, or two spaced periods, or is not ASCII.
_HINTS_AT_CONTEXT = re.compile(
    rf"[^<]*<|\d|(?:.*[^A-Za-z]|.*{_ANY_APOSTROPHE}.*)?(?:{_NUMBER_ABBREVIATION}|[A-Za-z])\.$"
)
_CUT_WORD = "(?i:cannot|gonna|wanna|gotta|lemme|gimme)"
# Words that are one token for certain, perhaps with punctuation that is removed.
_PLAIN = re.compile(
    rf"(?!{_CUT_WORD}[.,;!?]?$|(?:{_FINAL_ABBREVIATION}|{_OPEN_ABBREVIATION}|{_NUMBER_ABBREVIATION}|[A-Za-z])\.$)"
    r"([A-Za-z]+(?:-[A-Za-z]+)*)[.,;!?]?"
)
# After an initial, these words begin a new sentence.
_SENTENCE_START = (
    "(?:A|A(?i:bout|ccording|dditionally|fter|n|s|t)|B(?i:ut)|E(?i:arlier)|H(?i:e|er|ere|owever)|I(?i:f|n|t)|L(?i:ast)|"
    "M(?i:any|ore|r\\.|s\\.)|N(?i:ow)|O(?i:nce|ne|ther|ur)|S(?i:he|ince|o|ome|uch)|"
    "T(?i:hat|he|heir|hen|here|hese|hey|his)|W(?i:e|hat|hen|hile)|Y(?i:et|ou))"
)


def _rule(token: str, context: str = "") -> re.Pattern[str]:
    return re.compile(f"({token}){context}")


_TAG = rf"<(?:[!?][A-Za-z-][^>\n]*|{_TAG_NAME}(?:[ ]+{_TAG_NAME}(?:{_TAG_VALUE})?)*[ ]*/?|/{_TAG_NAME})[ ]*>"
_RULES = [
    # Tags, addresses and names.
    _rule(_TAG),
    _rule(rf'(?i:https?)://[^{_BLANK}"<>|(){{}}]+[^{_BLANK}"<>|.!?(){{}},-]'),
    _rule(
        rf'(?:(?i:www)\.(?:[^{_BLANK}"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}'
        rf'|(?:[^{_BLANK}"`\'<>|!?(){{}},-_$]+\.)+(?i:com|net|org|edu)){_URL_TAIL}'
    ),
    _rule(
        rf'(?:<|&(?i:lt);)?[a-zA-Z0-9][^{_BLANK}\u00a0"<>|(){{}}]*'
        rf'@(?:[^{_BLANK}\u00a0"<>|(){{}}.]+\.)*[^{_BLANK}\u00a0"<>|(){{}}.]+(?:>|&(?i:gt);)?'
    ),
    _rule(r"@[a-zA-Z_][a-zA-Z_0-9]*"),
    _rule(rf"\#{_LETTER}+"),
    _rule("(?i:anti|pro)-"),
    # Words cut in two.
    _rule("(?i:can)", "(?i:not)"),
    _rule("(?i:gon|wan)", "(?i:na)"),
    _rule("(?i:got)", "(?i:ta)"),
    _rule("(?i:lem|gim)", "(?i:me)"),
    _rule("'[tT]", "(?i:is|was)"),
    # Words before a clitic, and clitics.
    _rule(_WORD),
    _rule("[A-Za-z\u00ad]*[A-MO-Za-mo-z\u00ad]", _NOT),
    _rule(_NOT),
    _rule(_WORD, _CLITIC),
    _rule(_CLITIC, "[^A-Za-z]"),
    # Words with an apostrophe of their own.
    _rule(rf"{_APOSTROPHE}[nN]{_APOSTROPHE}?|{_APOSTROPHE}(?i:em|[2-9]0s|till?|cause)"),
    _rule(
        rf"[lLdDjJ]{_APOSTROPHE}|(?i:dunkin|somethin|ol){_APOSTROPHE}|(?i:cap){_APOSTROPHE}[nN]|[oO]{_ANY_APOSTROPHE}[oO]|[cC]{_APOSTROPHE}(?i:est)"
    ),
    _rule(r"(?i:c'mon|s'mores|nat'l|li'l|nor'easter|e'er|ev'ry|cont'd\.)"),
    _rule(rf"[A-HJ-XZn]{_ANY_APOSTROPHE}{_PLAIN_LETTER}{{2,}}"),
    _rule(rf"{_PLAIN_LETTER}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_PLAIN_LETTER}*"),
    _rule(rf"[yY]{_APOSTROPHE}", _LETTER),
    # Abbreviations.
    _rule(rf"(?:{_FINAL_ABBREVIATION})\.", r"[\s\S]{2}"),
    _rule(rf"(?:{_FINAL_ABBREVIATION})\."),
    _rule(rf"{_OPEN_ABBREVIATION}\."),
    _rule(rf"{_NUMBER_ABBREVIATION}\.", rf"{_SPACE}?{_DIGIT}"),
    _rule(rf"{_ACRONYM}\."),
    _rule("[A-Za-z]", rf"\.{_SPACE}+(?:{_SENTENCE_START}|{_TAG}){_SPACE}"),
    _rule(r"[A-Za-z]\."),
    _rule(rf"(?:{_THING}|{_WORD}|{_HYPHENATED}|{_JOINED_CAPITALS})\.", "[,;:]"),
    # Numbers.
    _rule(rf"(?:{_DIGIT}{{1,4}}[- \u00a0])?{_DIGIT}{{1,4}}(?:\\?/|\u2044){_DIGIT}{{1,4}}"),
    _rule(rf"{_DIGIT}{{1,2}}[-/]{_DIGIT}{{1,2}}[-/]{_DIGIT}{{2,4}}"),
    _rule(
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
    ),
    _rule(r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
    _rule(rf"[-+]?{_NUMBER}"),
    _rule(rf"{_APOSTROPHE}[0-9][0-9]", _SPACE),
    _rule(r"[A-Z]+\$"),
    # Words.
    _rule(rf"{_LETTER_OR_DIGIT}+(?:\.{_LETTER_OR_DIGIT}+)*\.{_FILE_KIND}", rf"(?:{_SPACE}|[.?!,])"),
    _rule(_THING),
    _rule(_HYPHENATED),
    _rule(rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}"),
    _rule(_JOINED_CAPITALS),
    _rule(r"[cC]\+\+|[cCfF]\#"),
    # Punctuation.
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", r"[^A-Za-z0-9]"),
    _rule(r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"),
    _rule(r"\.{3,5}|\.(?:[ \u00a0]\.){2,4}"),
    _rule("'", rf"[A-Za-z][^{_BLANK}\u00a0]"),
    _rule("-(?i:[lr][rcs]b)-"),
    _rule(_CLITIC),
    _rule(r"&\#\d+;|&(?i:amp|lt|gt|quot|apos|nbsp|mdash|ndash);"),
    _rule(
        rf"-{{2,}}|[!?]{{2,}}|``|''|{_QUOTE}{{1,2}}|\#+|@+|[\u00b2\u00b3\u00b9\u2070-\u2089]+|_+|\*+|(?:\\\*)+|<<|>>|\S"
    ),
]

_SPELLINGS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u00a2": "cents",
    "\u00a3": "#", "\u20ac": "$", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u00bc": "1/4", "\u00bd": "1/2",
    "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3", "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip
"""Tokens that are written differently."""
_KEEPS_SOFT_HYPHENS = re.compile(rf"[@#/]|\.{_FILE_KIND}$")
_QUOTES = {
    **dict.fromkeys(map(ord, "\u0091\u2018\u201b\u2039"), "`"),
    **dict.fromkeys(map(ord, "\u0092\u2019\u203a"), "'"),
    **dict.fromkeys(map(ord, "\u0093\u201c\u00ab"), "``"),
    **dict.fromkeys(map(ord, "\u0094\u201d\u00bb"), "''"),
}
_UNWRITTEN = re.compile(
    r"&(?:quot|apos|(?i:nbsp|mdash|ndash));|-{2,4}|\.{3,5}|\.(?:[ \u00a0]\.){2,4}"
    rf"|(?!{_LETTER_OR_DIGIT})[^\u0023-\u0026\u0028-\u002b\u002f\u003c-\u003e\u0040\u005b-\u005f\u007b-\u007e\u0080\u00a1-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9"
    r"\u00bc-\u00bf\u00d7\u00f7\u0387\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u214f"
    r"\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff65\uffe0\uffe1\uffe5\uffe6]"
)
"""Other punctuation that is removed, and every symbol but those that are kept."""


def tokenize(captions: Sequence[str]) -> list[str]:
    """Return each caption as lower-case Penn-Treebank tokens joined by one space, punctuation removed.

    captions: any text; a line break within one counts as a space.
    """
    lines = [_LINE_BREAKS.sub(" ", caption) for caption in captions]
    # No line break at the end, where none is in COCO's evaluation: some rules look for what follows a token.
    text = "\n".join(lines)
    chunks = _Chunks()
    tokenized, start = [], 0
    for line in lines:
        end, words = start + len(line), line.split()
        tokens = " ".join(filter(None, map(chunks.__getitem__, words)))
        hint = ". ." in line or not line.isascii() or not chunks.hints.isdisjoint(words)
        if end == len(text) or (hint and _NEEDS_CONTEXT.search(line)):
            tokens = _split(text, start, end)
        tokenized.append(tokens)
        start = end + 1
    return tokenized


class _Chunks(dict[str, str]):
    """The tokens of each run of text without white space, joined by spaces: few runs make most captions."""

    def __init__(self) -> None:
        self.hints: set[str] = set()
        """The runs whose tokens may depend on what is around them."""

    def __missing__(self, chunk: str) -> str:
        if _HINTS_AT_CONTEXT.match(chunk):
            self.hints.add(chunk)
        plain = _PLAIN.fullmatch(chunk)
        tokens = self[chunk] = plain[1].lower() if plain else _split(f"{chunk}\n", 0, len(chunk))
        return tokens


def _split(text: str, start: int, end: int) -> str:
    """Return the tokens of this part of the text, joined by spaces; what follows the part is their context."""
    tokens = []
    while start < end:
        token, start = _next_token(text, start)
        if written := _write(token):
            tokens.append(written)
    return " ".join(tokens).rstrip()  # an address may end in an unusual space


def _next_token(text: str, start: int) -> tuple[str, int]:
    """Return the token that starts here and where it ends; white space is an empty token."""
    if text[start] in " \t":
        return "", start + 1
    best = None
    for rule in _RULES:
        match = rule.match(text, start)
        if match and (best is None or match.end() > best.end()):
            best = match
    # The last rule takes any character but white space.
    return (best[1], best.end(1)) if best else ("", start + 1)


def _write(token: str) -> str:
    """Return a token as the Penn Treebank writes it, or nothing where it is removed."""
    if "\u00ad" in token and not _KEEPS_SOFT_HYPHENS.search(token):
        token = token.replace("\u00ad", "")
    if re.fullmatch(f"{_QUOTE}+", token):
        token = token.translate(_QUOTES)
    if not token or token in _REMOVED or _UNWRITTEN.fullmatch(token):
        return ""
    if re.fullmatch(rf"{_CLITIC}|{_NOT}", token):
        return re.sub("[\u2019\u0092]|&apos;", "'", token).replace("\u2018", "`").replace("\u201b", "`").lower()
    tag = re.fullmatch(_TAG, token)
    token = token.lower().replace(" ", "\u00a0")
    if token in _SPELLINGS:
        return _SPELLINGS[token]
    if re.fullmatch(_JOINED_CAPITALS, token, re.IGNORECASE):
        return token.replace("&amp;", "&")
    if tag:
        return token
    return token.replace("(", "-lrb-").replace(")", "-rrb-")
