"""People's judgements of captions on Flickr8k, from their original files.

Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task, JAIR 47, 2013; the files come with
Flickr8k's captions: ExpertAnnotations.txt, CrowdFlowerAnnotations.txt and Flickr8k.token.txt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from captioner.data.records import find_file, read_lines
from captioner.errors import DataError

EXPERTS = 3


@dataclass(frozen=True)
class Judgements:
    """Candidate captions of images, each with its references and what people thought of it."""

    candidates: list[str]
    references: list[list[str]]
    ratings: list[list[float]]
    """Of each candidate: every expert's grade from 1 to 4, or the one share of people who said yes."""
    dropped: int = 0
    """Pairs left out because the candidate is one of the image's own references."""


def read_captions(root: Path) -> dict[str, str]:
    """Return the captions of Flickr8k.token.txt by their ids, ``image.jpg#0``.

    Raises DataError where the file is missing or malformed, as the other readers do.
    """
    path = _file(root, "Flickr8k.token.txt")
    captions = {}
    for number, line in read_lines(path):
        name, tab, caption = line.partition("\t")
        if not tab or "#" not in name:
            raise DataError(f"{path} line {number}: is not image#number<tab>caption")
        captions[name] = " ".join(caption.split())
    return captions


def read_expert(root: Path, captions: dict[str, str]) -> Judgements:
    """Read the experts' grades: ``image<tab>caption id<tab>1..4<tab>1..4<tab>1..4`` a line.

    A pair whose candidate is a reference of the image is dropped, as Anderson et al. (SPICE, ECCV 2016) do; in the
    published file these are 158 of 5,822. Each grade counts by itself: three a pair.
    """
    references = _by_image(captions)
    found, dropped = Judgements([], [], []), 0
    for place, image, caption, fields in _read_rows(root, "ExpertAnnotations.txt", 2 + EXPERTS, captions):
        grades = [_number(field, place) for field in fields]
        candidate, others = captions[caption], _references_of(image, references, place)
        if candidate in others:
            dropped += 1
            continue
        _add(found, candidate, others, grades)
    return Judgements(found.candidates, found.references, found.ratings, dropped)


def read_crowdflower(root: Path, captions: dict[str, str]) -> Judgements:
    """Read the crowd's answers: ``image<tab>caption id<tab>share of yes<tab>yes<tab>no`` a line.

    All pairs stay; a caption that is a candidate for its own image is removed from the image's references, for all of
    the image's candidates, as Hessel et al. (CLIPScore, EMNLP 2021, appendix A) do.
    """
    references, found = _by_image(captions), Judgements([], [], [])
    for place, image, caption, fields in _read_rows(root, "CrowdFlowerAnnotations.txt", 5, captions):
        candidate, others = captions[caption], _references_of(image, references, place)
        if candidate in others:
            others.remove(candidate)  # from the list that all of the image's rows share
        _add(found, candidate, others, [_number(fields[0], place)])
    bare = sum(not others for others in found.references)
    if bare:
        raise DataError(f"{root}: {bare} pairs have no reference left; are the captions whole?")
    return found


def _file(root: Path, name: str) -> Path:
    path = find_file(root, name)
    if path is None:
        raise DataError(f"{root}: has no {name}; name the folder of Flickr8k's text files")
    return path


def _by_image(captions: dict[str, str]) -> dict[str, list[str]]:
    references: dict[str, list[str]] = {}
    for name, caption in captions.items():
        references.setdefault(name.partition("#")[0], []).append(caption)
    return references


def _read_rows(
    root: Path, name: str, width: int, captions: dict[str, str]
) -> Iterator[tuple[str, str, str, list[str]]]:
    path = _file(root, name)
    for number, line in read_lines(path):
        place, fields = f"{path} line {number}", line.strip().split("\t")
        if len(fields) != width:
            raise DataError(f"{place}: has {len(fields)} fields, separated by tabs, instead of {width}")
        if fields[1] not in captions:
            raise DataError(f"{place}: the captions have no {fields[1]}")
        yield place, fields[0], fields[1], fields[2:]


def _references_of(image: str, references: dict[str, list[str]], place: str) -> list[str]:
    if image not in references:
        raise DataError(f"{place}: the captions have none of {image}")
    return references[image]


def _number(field: str, place: str) -> float:
    try:
        return float(field)
    except ValueError as error:
        raise DataError(f"{place}: {field!r} is not a number") from error


def _add(found: Judgements, candidate: str, references: list[str], ratings: list[float]) -> None:
    found.candidates.append(candidate)
    found.references.append(references)
    found.ratings.append(ratings)
