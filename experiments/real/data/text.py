"""Builds the text-only examples of a data root: ``text/train.jsonl``, ``val.jsonl`` and ``tune.jsonl``.

    python -m experiments.real.data.text ROOT

Five types of questions: the ``capital`` and the ``language`` of a country; of a common word its ``plural``, its first
``letter`` and ``reading``, where the answer stands in front of the question. And documents, entries of a dictionary.
A country, word or entry is in one split only.

The types are those that SmolLM2-135M-Instruct answers to 60 to 95 % as they are written here. Which countries and words
are asked about follows from their population and frequency, not from its answers. It answers in sentences: a question's
first reference, which training uses, is its sentence; the short answer is right too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.real.data.baselines import Asked, score_majority
from experiments.real.data.sources import read_json, read_lines, require_file, require_folder
from experiments.real.data.splits import assign_splits
from experiments.real.packages import unpacked
from safe_train.cli.errors import one_line_errors
from safe_train.io.files import json_text, staged_folder, write_text

COUNTRYINFO, ISO_CODES, WORDNET, DEVIL = "countryinfo", "iso-codes", "wordnet-base", "dict-devil"
"""The packages."""

SPLITS = ("train", "val", "tune")
SHARES = {"val": 0.4, "tune": 0.2, "train": 0.4}
DOCUMENT_SHARES = {"val": 0.3, "tune": 0.1, "train": 0.6}

COMMON_WORDS, WORDS = 300, 900
"""The most frequent nouns: those asked for plural and letter, and those of reading."""

DOCUMENT_CHARACTERS = (180, 600)

_LEAST_PEOPLE, _MANY_PEOPLE = 1_000_000, 30_000_000
_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Karl", "Laura", "Martin", "Nora",
    "Oscar", "Paul", "Rosa", "Simon", "Tina",
)  # fmt: skip
_ONE_WORD = "Answer with one word."

# WordNet's lexicographer files of nouns for animals, artifacts and plants.
_CONCRETE = {"05", "06", "20"}
# Nouns without a plural, or with one that equals the singular; WordNet marks neither.
_UNCOUNTABLE = {
    "aircraft", "ammunition", "artillery", "bison", "cattle", "clothing", "craft", "deer", "equipment", "fish",
    "freight", "furniture", "hardware", "livestock", "machinery", "moose", "offspring", "poultry", "salmon", "sheep",
    "shrimp", "silver", "software", "swine", "transportation", "trout",
}  # fmt: skip
# Base 64 as dictd writes offsets and lengths: digits, the highest first. Source: the manual page of dictfmt.
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@dataclass(frozen=True)
class TextQuestion:
    """A question without an image; ``short`` is its shortest answer, and one of ``answers``."""

    text: str
    answers: tuple[str, ...]
    short: str
    kind: str
    cluster: str


@dataclass(frozen=True)
class Country:
    """A country and what is asked about it.

    Attributes:
        name: its name, with an article where English has one.
        capital: its capital.
        language: its only official language, or None.
        people: its population.
        region: its continent.
    """

    name: str
    capital: str
    language: str | None
    people: int
    region: str


def build_text(root: Path, packages: Callable[[str], Path] = unpacked) -> dict[str, Any]:
    """Builds ``root/text``, whose forms are those of docs/data.md.

    Args:
        root: the data root. An older ``text`` in it is replaced.
        packages: gives the folder in which a package is unpacked.

    Returns:
        Counts by split and type, and the accuracy on ``val`` of each type's most frequent answer in ``train``; also
        written to ``text/summary.json``.

    Raises:
        InputError: a package has another layout, or the root cannot be written.
    """
    questions = [
        *ask_countries(read_countries(packages(COUNTRYINFO), packages(ISO_CODES))),
        *ask_words(*read_words(packages(WORDNET))),
    ]
    splits = _hold_out(questions)
    documents = _hold_out_documents(read_entries(packages(DEVIL)))
    summary = summarize(splits, documents)
    with staged_folder(root / "text") as folder:
        for split in SPLITS:
            lines = [*_question_lines(splits[split]), *_document_lines(documents[split])]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_text(folder / f"{split}.jsonl", text)
        write_text(folder / "summary.json", json_text(summary))
    return summary


def read_countries(countryinfo: Path, iso_codes: Path) -> list[Country]:
    """The countries of ISO 3166 with at least a million people, the most populous first.

    Raises:
        InputError: a package has another layout.
    """
    codes = iso_codes / "usr" / "share" / "iso-codes" / "json"
    states = {entry["alpha_2"] for entry in read_json(codes / "iso_3166-1.json", ISO_CODES)["3166-1"]}
    languages = {
        entry["alpha_2"]: _plain_name(entry["name"])
        for entry in read_json(codes / "iso_639-2.json", ISO_CODES)["639-2"]
        if "alpha_2" in entry
    }
    folder = require_folder(countryinfo / "countryinfo" / "data", COUNTRYINFO)
    entries = [read_json(path, COUNTRYINFO) for path in sorted(folder.glob("*.json"))]
    countries = [
        Country(
            name=_with_article(entry["name"]),
            capital=entry["capital"],
            language=languages.get(entry["languages"][0]) if len(entry["languages"]) == 1 else None,
            people=entry["population"],
            region=entry["region"],
        )
        for entry in entries
        if entry.get("capital") and entry.get("population", 0) >= _LEAST_PEOPLE and _code(entry) in states
    ]
    return sorted(countries, key=lambda country: (-country.people, country.name))


def _code(entry: Mapping[str, Any]) -> str:
    return entry.get("ISO", {}).get("alpha2", "")


def _plain_name(name: str) -> str:
    """``Spanish`` of ``Spanish; Castilian``, ``Greek`` of ``Greek, Modern (1453-)``."""
    return name.partition(";")[0].partition(",")[0].partition("(")[0].strip()


def _with_article(name: str) -> str:
    ends = ("States", "Kingdom", "Republic", "Emirates", "Netherlands", "Philippines")
    return f"the {name}" if name.endswith(ends) or name.startswith("Democratic Republic") else name


def ask_countries(countries: Sequence[Country]) -> Iterator[TextQuestion]:
    """The language of each country that has one; the capital in Europe, and where more than 30 million people live."""
    for country in countries:
        cluster = f"country:{country.name}"
        if country.region == "Europe" or country.people > _MANY_PEOPLE:
            yield _ask(f"the capital of {country.name}", (country.capital,), "capital", cluster)
        if country.language:
            yield _ask(f"the official language of {country.name}", (country.language,), "language", cluster)


def _ask(what: str, shorts: Sequence[str], kind: str, cluster: str) -> TextQuestion:
    """Asks ``What is the capital of France?``; accents may be left out of an answer."""
    shorts = tuple(dict.fromkeys(spelling for short in shorts for spelling in (short, _drop_accents(short))))
    sentences = tuple(f"{what[0].upper()}{what[1:]} is {short.removesuffix('.')}." for short in shorts)
    return TextQuestion(f"What is {what}? {_ONE_WORD}", sentences + shorts, shorts[0], kind, cluster)


def _drop_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def read_words(wordnet: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The most frequent nouns of which the first sense is an animal, an artifact or a plant, and irregular plurals.

    The frequency is that of the first sense in the texts of WordNet. Words of capitals, of one or two letters, in -s,
    without a plural, or with a u at the beginning, whose article does not follow from spelling, are left out.

    Raises:
        InputError: the package has another layout.
    """
    folder = wordnet / "usr" / "share" / "wordnet"
    counts: Counter[str] = Counter()
    for line in read_lines(folder / "cntlist.rev", WORDNET):
        key, sense, count = line.split()
        lemma, _, rest = key.partition("%")
        if sense == "1" and rest.startswith("1:"):  # 1: a noun
            counts[lemma] = int(count)
    kinds = dict(line.split()[:2] for line in read_lines(folder / "data.noun", WORDNET) if not line.startswith(" "))
    # index.noun: lemma, part of speech, number of senses and pointers, pointers, two numbers, offsets of the senses.
    senses = {
        fields[0]: fields[6 + int(fields[3])]
        for fields in (line.split() for line in read_lines(folder / "index.noun", WORDNET) if not line.startswith(" "))
    }
    words = [word for word in counts if kinds.get(senses.get(word, "")) in _CONCRETE and _is_asked(word)]
    irregular: dict[str, list[str]] = defaultdict(list)
    for line in read_lines(folder / "noun.exc", WORDNET):
        plural, *singulars = line.split()
        for singular in singulars:
            irregular[singular].append(plural)
    return sorted(words, key=lambda word: (-counts[word], word))[:WORDS], dict(irregular)


def _is_asked(word: str) -> bool:
    return (
        word.isalpha() and word.islower() and len(word) > 2 and word not in _UNCOUNTABLE and _has_plain_spelling(word)
    )


def _has_plain_spelling(word: str) -> bool:
    return not word.endswith("s") and not word.startswith(("u", "eu", "hour", "heir", "hon"))


def ask_words(words: Sequence[str], irregular: Mapping[str, Sequence[str]]) -> Iterator[TextQuestion]:
    """Reading about each word, the most frequent first, and plural and first letter of the ``COMMON_WORDS``."""
    for place, word in enumerate(words):
        cluster = f"word:{word}"
        if place < COMMON_WORDS:
            yield _ask(f"the plural of {word}", irregular.get(word) or [pluralize(word)], "plural", cluster)
            if not word.startswith("a"):  # answers are compared without articles: nothing would be left of an A
                yield _ask(f"the first letter of the word {word}", [word[0].upper()], "letter", cluster)
        yield _ask_reading(word, _NAMES[place % len(_NAMES)], cluster)


def pluralize(word: str) -> str:
    """The regular plural of an English noun."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _ask_reading(word: str, name: str, cluster: str) -> TextQuestion:
    thing = f"an {word}" if word[0] in "aeio" else f"a {word}"
    found = f"{name} found {thing}"
    # No more than three references: from four on, they count as annotators of whom three must agree.
    question = f"{found} yesterday. Question: What did {name} find yesterday?"
    return TextQuestion(question, (f"{found} yesterday.", f"{found}.", word), word, "reading", cluster)


def read_entries(package: Path) -> dict[str, str]:
    """The entries of the dictionary by headword, those of 180 to 600 characters.

    Raises:
        InputError: the package has another layout.
    """
    base = package / "usr" / "share" / "dictd"
    compressed = require_file(base / "devil.dict.dz", DEVIL)
    text = gzip.decompress(compressed.read_bytes())
    entries: dict[str, str] = {}
    for line in read_lines(base / "devil.index", DEVIL):
        word, start, length = line.split("\t")[:3]
        if not word.startswith("00"):  # what dictd tells about the dictionary itself
            begin = _decode_number(start)
            entries[word] = text[begin : begin + _decode_number(length)].decode().strip()
    shortest, longest = DOCUMENT_CHARACTERS
    by_text = {entry: word for word, entry in entries.items() if shortest <= len(entry) <= longest}
    return {word: entry for entry, word in by_text.items()}


def _decode_number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = 64 * value + _DIGITS.index(digit)
    return value


def _hold_out(questions: Sequence[TextQuestion]) -> dict[str, list[TextQuestion]]:
    """Questions by split; each type of cluster, countries, common words and other words, has the same shares."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        kinds[question.cluster].add(question.kind)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for cluster, asked in kinds.items():
        strata[tuple(sorted(asked))].append(cluster)
    splits: dict[str, str] = {}
    for clusters in strata.values():
        splits |= assign_splits(clusters, SHARES)
    return {split: [question for question in questions if splits[question.cluster] == split] for split in SPLITS}


def _hold_out_documents(entries: Mapping[str, str]) -> dict[str, dict[str, str]]:
    splits = assign_splits(entries, DOCUMENT_SHARES)
    return {split: {word: entries[word] for word in entries if splits[word] == split} for split in SPLITS}


def _question_lines(questions: Sequence[TextQuestion]) -> Iterator[dict[str, Any]]:
    for question in questions:
        yield {
            "id": f"{question.kind}:{question.cluster.partition(':')[2]}",
            "prompt": question.text,
            "answers": list(question.answers),
            "type": question.kind,
            "cluster": question.cluster,
        }


def _document_lines(entries: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for word, entry in entries.items():
        yield {"id": f"entry:{word}", "text": entry}


def summarize(
    splits: Mapping[str, Sequence[TextQuestion]], documents: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Counts by split and type, and the accuracy on ``val`` of each type's most frequent answer in ``train``."""
    return {
        "splits": {
            split: {
                "questions": len(questions),
                "by_type": dict(sorted(Counter(question.kind for question in questions).items())),
                "documents": len(documents[split]),
            }
            for split, questions in splits.items()
        },
        "baselines": {"majority_of_type": score_majority(*(map(_by_type, splits[name]) for name in ("train", "val")))},
    }


def _by_type(question: TextQuestion) -> Asked:
    return Asked(question.kind, question.kind, question.short)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("experiments.real.data.text", description=__doc__)
    parser.add_argument("root", type=Path, help="data root")
    print(json_text(build_text(parser.parse_args(arguments).root)), end="")


if __name__ == "__main__":
    main()
