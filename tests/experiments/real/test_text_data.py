"""Text-only questions and documents from small folders in the layouts of the packages."""

import gzip
import json
from collections import Counter, defaultdict

import pytest

from experiments.real.data.text import (
    COUNTRYINFO,
    DEVIL,
    ISO_CODES,
    WORDNET,
    Country,
    ask_countries,
    ask_words,
    build_text,
    pluralize,
    read_countries,
    read_entries,
    read_words,
)
from safe_train.data.datasets.text import Text
from safe_train.data.validation.check import check_root
from safe_train.errors import InputError
from safe_train.metrics.vqa_accuracy import normalize_answer


def country(name, code, capital, languages, people, region):
    return {
        "name": name, "ISO": {"alpha2": code}, "capital": capital, "languages": languages, "population": people,
        "region": region,
    }  # fmt: skip


COUNTRIES = {
    "france": country("France", "FR", "Paris", ["fr"], 66_000_000, "Europe"),
    "brazil": country("Brazil", "BR", "Brasília", ["pt"], 203_000_000, "Americas"),
    "united_states": country("United States", "US", "Washington D.C.", ["en"], 319_000_000, "Americas"),
    "switzerland": country("Switzerland", "CH", "Bern", ["de", "fr", "it"], 8_000_000, "Europe"),
    "greece": country("Greece", "GR", "Athens", ["el"], 11_000_000, "Europe"),
    "cuba": country("Cuba", "CU", "Havana", ["es"], 11_000_000, "Americas"),
    "iceland": country("Iceland", "IS", "Reykjavik", ["is"], 326_000, "Europe"),  # too few people
    "yugoslavia": country("Yugoslavia", "YU", "Belgrade", ["sr"], 23_000_000, "Europe"),  # no code of today
    "antarctica": {"name": "Antarctica", "ISO": {"alpha2": "AQ"}, "capital": "", "region": ""},
}
LANGUAGES = {
    "fr": "French", "pt": "Portuguese", "en": "English", "de": "German", "el": "Greek, Modern (1453-)",
    "es": "Spanish; Castilian", "is": "Icelandic", "sr": "Serbian",
}  # fmt: skip
# Word, lexicographer file of its first sense (05 animals, 06 artifacts, 18 persons, 20 plants), count of that sense.
NOUNS = [
    ("house", "06", 90), ("goose", "05", 40), ("oak", "20", 40), ("teacher", "18", 70), ("fish", "05", 60),
    ("axe", "06", 5), ("glass", "06", 50), ("unicorn", "05", 9), ("ox", "05", 9), ("city_hall", "06", 8),
    ("box", "06", 30),
]  # fmt: skip
ENTRIES = {
    "abbess": "ABBESS, n.  " + "A decent woman. " * 12,
    "bore": "BORE, n.  A person who talks when you wish him to listen.",  # too short
    "cabbage": "CABBAGE, n.  " + "A vegetable about as large as a head. " * 10,
    "epic": "EPIC, n.  " + "A very long tale. " * 50,  # too long
}
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_wordnet(folder, nouns):
    write(folder / "cntlist.rev", "".join(f"{word}%1:{kind}:00:: 1 {count}\n" for word, kind, count in nouns))
    with (folder / "cntlist.rev").open("a") as file:
        file.write("oak%1:06:00:: 2 99\nhouse%2:42:00:: 1 99\n")  # another sense, and a verb
    lines = ["  1 A license.\n"]
    lines += [f"{n:08} {kind} n 01 {word} 0 000 | a gloss\n" for n, (word, kind, _) in enumerate(nouns, 1)]
    write(folder / "data.noun", "".join(lines))
    # Two senses, and two kinds of pointers between their number and the offsets.
    lines = ["  1 A license.\n"]
    lines += [f"{word} n 2 2 @ ~ 2 1 {n:08} 09999999  \n" for n, (word, *_) in enumerate(nouns, 1)]
    write(folder / "index.noun", "".join(lines))
    write(folder / "noun.exc", "geese goose\noxen ox\n")


def in_base_64(number):
    return (in_base_64(number // 64) if number >= 64 else "") + DIGITS[number % 64]


def write_dictionary(folder, entries):
    text, lines = "THE DICTIONARY\n\n", ["00databaseinfo\tA\tP\n"]
    for word, entry in entries.items():
        lines.append(f"{word}\t{in_base_64(len(text))}\t{in_base_64(len(entry) + 2)}\n")
        text += entry + "\n\n"
    lines.append(lines[1].replace("abbess", "abbesses"))  # two headwords of one entry
    write(folder / "devil.index", "".join(lines))
    (folder / "devil.dict.dz").write_bytes(gzip.compress(text.encode()))


def write_packages(root, *, nouns=NOUNS, entries=ENTRIES, countries=COUNTRIES):
    for name, entry in countries.items():
        write(root / COUNTRYINFO / f"countryinfo/data/{name}.json", json.dumps(entry))
    codes = root / ISO_CODES / "usr/share/iso-codes/json"
    known = [{"alpha_2": entry["ISO"]["alpha2"]} for entry in countries.values() if entry["name"] != "Yugoslavia"]
    write(codes / "iso_3166-1.json", json.dumps({"3166-1": known}))
    languages = [{"alpha_2": code, "name": name} for code, name in LANGUAGES.items()]
    write(codes / "iso_639-2.json", json.dumps({"639-2": [*languages, {"alpha_3": "ace", "name": "Achinese"}]}))
    write_wordnet(root / WORDNET / "usr/share/wordnet", nouns)
    write_dictionary(root / DEVIL / "usr/share/dictd", entries)
    return root.joinpath


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data root of 20 words, some of them like the plurals of others, 10 countries and 20 entries."""
    words = [f"{first}{end}" for first in ("cat", "cats", "ant", "tree") for end in ("a", "b", "c", "d", "e")]
    countries = {
        f"land{n}": country(f"Land {n}", f"L{n}", f"Town {n}", ["fr"], 40_000_000, "Asia") for n in range(10)
    }  # fmt: skip
    entries = {word: f"{word.upper()}, n.  " + "Something that nobody needs. " * 9 for word in words}
    nouns = [(word, "06", 100 - n) for n, word in enumerate(words)]
    folder = tmp_path_factory.mktemp("packages")
    root = tmp_path_factory.mktemp("root")
    return root, build_text(root, write_packages(folder, nouns=nouns, entries=entries, countries=countries))


def test_countries_are_of_today_and_have_a_million_people(packages):
    assert read_countries(packages(COUNTRYINFO), packages(ISO_CODES)) == [
        Country("the United States", "Washington D.C.", "English", 319_000_000, "Americas"),
        Country("Brazil", "Brasília", "Portuguese", 203_000_000, "Americas"),
        Country("France", "Paris", "French", 66_000_000, "Europe"),
        Country("Cuba", "Havana", "Spanish", 11_000_000, "Americas"),
        Country("Greece", "Athens", "Greek", 11_000_000, "Europe"),
        Country("Switzerland", "Bern", None, 8_000_000, "Europe"),
    ]


def test_questions_about_countries(packages):
    asked = list(ask_countries(read_countries(packages(COUNTRYINFO), packages(ISO_CODES))))
    assert [(question.kind, question.cluster, question.short) for question in asked] == [
        ("capital", "country:the United States", "Washington D.C."),
        ("language", "country:the United States", "English"),
        ("capital", "country:Brazil", "Brasília"),
        ("language", "country:Brazil", "Portuguese"),
        ("capital", "country:France", "Paris"),
        ("language", "country:France", "French"),
        ("language", "country:Cuba", "Spanish"),  # neither in Europe nor populous
        ("capital", "country:Greece", "Athens"),
        ("language", "country:Greece", "Greek"),
        ("capital", "country:Switzerland", "Bern"),  # of its languages there are three
    ]
    united_states, _, brazil = asked[:3]
    assert united_states.answers == ("The capital of the United States is Washington D.C.", "Washington D.C.")
    assert brazil.text == "What is the capital of Brazil? Answer with one word."
    assert brazil.answers == (
        "The capital of Brazil is Brasília.", "The capital of Brazil is Brasilia.", "Brasília", "Brasilia",
    )  # fmt: skip


def test_words_are_frequent_animals_artifacts_and_plants(packages):
    words, irregular = read_words(packages(WORDNET))
    # Not teacher, fish, glass, unicorn, ox or city_hall; of equal counts by the alphabet.
    assert words == ["house", "goose", "oak", "box", "axe"]
    assert irregular == {"goose": ["geese"], "ox": ["oxen"]}


def test_questions_about_words():
    asked = {(q.kind, q.cluster): q for q in ask_words(["goose", "axe"], {"goose": ["geese"]})}
    assert list(asked) == [
        ("plural", "word:goose"), ("letter", "word:goose"), ("reading", "word:goose"),
        ("plural", "word:axe"), ("reading", "word:axe"),  # not its letter, which reads as an article
    ]  # fmt: skip
    plural, letter, reading = (asked[kind, "word:goose"] for kind in ("plural", "letter", "reading"))
    assert plural.text == "What is the plural of goose? Answer with one word."
    assert plural.answers == ("The plural of goose is geese.", "geese")
    assert letter.text == "What is the first letter of the word goose? Answer with one word."
    assert letter.answers == ("The first letter of the word goose is G.", "G")
    assert reading.text == "Anna found a goose yesterday. Question: What did Anna find yesterday?"
    assert reading.answers == ("Anna found a goose yesterday.", "Anna found a goose.", "goose")
    # From four references on they would count as annotators, of whom three must agree.
    assert max(len(question.answers) for question in asked.values()) < 4
    assert asked["reading", "word:axe"].text == "Ben found an axe yesterday. Question: What did Ben find yesterday?"


def test_only_the_most_frequent_words_are_asked_for_plural_and_letter():
    words = [f"w{number}" for number in range(302)]
    asked = list(ask_words(words, {}))
    assert [question.cluster for question in asked if question.kind == "plural"] == [f"word:{w}" for w in words[:300]]
    assert sum(question.kind == "reading" for question in asked) == 302


@pytest.mark.parametrize(
    ("word", "plural"),
    [("car", "cars"), ("city", "cities"), ("boy", "boys"), ("box", "boxes"), ("church", "churches")],
)
def test_regular_plurals(word, plural):
    assert pluralize(word) == plural


def test_entries_of_the_dictionary_that_are_neither_short_nor_long(packages):
    assert read_entries(packages(DEVIL)) == {
        "abbesses": ENTRIES["abbess"].strip(), "cabbage": ENTRIES["cabbage"].strip(),
    }  # fmt: skip


def test_the_official_reader_reads_questions_and_documents(built):
    root, summary = built
    # Of 10 countries, of 15 words and 5 in a-, two fifths for training; of 20 entries three fifths.
    types = {"capital": 4, "language": 4, "letter": 6, "plural": 8, "reading": 8}
    half = {"capital": 2, "language": 2, "letter": 3, "plural": 4, "reading": 4}
    for split, by_type, documents in (("train", types, 12), ("val", types, 6), ("tune", half, 2)):
        records = Text().records(root, split)
        asked = Counter(record.kind for record in records if record.question)
        assert asked == by_type
        assert len(records) - asked.total() == documents
        counts = {"questions": sum(by_type.values()), "by_type": by_type, "documents": documents}
        assert summary["splits"][split] == counts
        assert all(len(record.answers[0]) <= 600 for record in records)  # documents are one piece each
    assert summary == json.loads((root / "text/summary.json").read_text())
    assert summary["baselines"]["majority_of_type"]["language"] == 1.0  # all of them speak French
    assert summary["baselines"]["majority_of_type"]["plural"] == 0.0


def test_a_country_a_word_or_an_entry_is_in_one_split(built):
    root, _ = built
    places = defaultdict(set)
    for split in ("train", "val", "tune"):
        for record in Text().records(root, split):
            subject = record.cluster if record.question else record.answers[0]
            places[subject].add(split)
    assert len(places) == 10 + 20 + 20
    assert {len(splits) for splits in places.values()} == {1}


def test_every_answer_is_left_when_answers_are_compared(built):
    root, _ = built
    records = [record for split in ("train", "val", "tune") for record in Text().records(root, split)]
    assert all(normalize_answer(answer) for record in records for answer in record.answers)


def test_the_check_finds_no_issue(built):
    root, _ = built
    for split in ("train", "val", "tune"):
        reports = list(check_root(root, splits=[split]))
        assert [(report.name, report.defects) for report in reports if report.entries] == [("text", ())]


def test_another_layout_is_refused(packages, tmp_path):
    with pytest.raises(InputError, match=r"iso_3166-1\.json: expected a file of iso-codes"):
        build_text(tmp_path, lambda name: tmp_path / name)
    with pytest.raises(InputError, match=r"devil\.dict\.dz: expected a file of dict-devil"):
        build_text(tmp_path, lambda name: tmp_path / name if name == DEVIL else packages(name))
    assert not (tmp_path / "text").exists()
