"""Questions without an image that have one right answer, and short documents whose statements agree with each other."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from safe_train.embedded.scenes import COLORS, SHAPES
from safe_train.embedded.sounds import KINDS, PITCHES

TEXT_TYPES = ("sum", "more", "next", "opposite", "fact", "member", "repeat", "reverse", "recall")
"""Kinds of questions: the first six ask for knowledge, the last three for words of the question itself."""

IN_CONTEXT = ("repeat", "reverse", "recall")

NOT_LEARNED = ("recall",)
"""Kinds that the base was taught and did not learn: it guesses one of the two names, as its card says. Where there is
no skill there is none to lose, and a guess turns over at any touch; so the data hold none."""

SKILLS = tuple(kind for kind in TEXT_TYPES if kind not in NOT_LEARNED)
"""Kinds that the data hold."""

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
NUMBERS = (*_UNITS, *_TEENS, "twenty")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august",
          "september", "october", "november", "december")  # fmt: skip
OPPOSITES = (
    ("low", "high"), ("left", "right"), ("top", "bottom"), ("small", "large"), ("hot", "cold"), ("day", "night"),
    ("up", "down"), ("in", "out"), ("open", "closed"), ("old", "new"), ("fast", "slow"), ("hard", "soft"),
    ("wet", "dry"), ("full", "empty"), ("light", "dark"), ("happy", "sad"), ("loud", "quiet"), ("early", "late"),
    ("near", "far"), ("rich", "poor"), ("strong", "weak"), ("long", "short"), ("wide", "narrow"), ("thick", "thin"),
    ("clean", "dirty"), ("first", "last"), ("begin", "end"), ("buy", "sell"), ("push", "pull"), ("love", "hate"),
    ("win", "lose"), ("true", "false"),
)  # fmt: skip
CAPITALS = {
    "france": "paris", "spain": "madrid", "italy": "rome", "germany": "berlin", "japan": "tokyo", "china": "beijing",
    "russia": "moscow", "egypt": "cairo", "greece": "athens", "norway": "oslo", "sweden": "stockholm",
    "poland": "warsaw", "austria": "vienna", "portugal": "lisbon", "ireland": "dublin", "cuba": "havana",
    "peru": "lima", "kenya": "nairobi", "iran": "tehran", "iraq": "baghdad", "turkey": "ankara",
    "hungary": "budapest", "denmark": "copenhagen", "finland": "helsinki", "canada": "ottawa", "chile": "santiago",
}  # fmt: skip
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb",
         "lion": "cub", "duck": "duckling", "hen": "chick", "swan": "cygnet"}  # fmt: skip
NATURAL_COLORS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red",
                  "lemon": "yellow", "plum": "purple", "sky": "blue"}  # fmt: skip
LEGS = {"spider": "8", "ant": "6", "dog": "4", "hen": "2", "tripod": "3"}
WHEELS = {"car": "4", "bicycle": "2", "tricycle": "3", "unicycle": "1"}
SOUNDING = {
    "bell": ("what rings in a tower?", "what has a clapper?"),
    "drum": ("what do you beat with sticks?", "what has a skin that you beat?"),
    "whistle": ("what does a referee blow?", "what do you blow to stop a game?"),
    "buzz": ("what sound does a bee make?", "how does a bee sound?"),
    "chirp": ("what sound does a small bird make?", "how does a small bird sound?"),
}
CATEGORIES = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "day": DAYS,
    "month": MONTHS,
    "country": tuple(CAPITALS)[:12],
    "city": tuple(CAPITALS.values())[:12],
    "animal": tuple(YOUNG),
    "number": NUMBERS[:13],
}
THINGS = ("ball", "book", "cup", "lamp", "coin", "key", "box", "hat")
_PLURALS = {thing: thing + ("es" if thing == "box" else "s") for thing in THINGS}
NAMES = ("tom", "ann", "sam", "eva", "max", "lily", "ben", "mia")
PLACES = ("house", "garden", "barn", "park", "forest", "kitchen", "school", "field")
INSTRUMENTS = ("bell", "drum", "whistle")
OWNED = (*THINGS, *INSTRUMENTS)
SAID = (*KINDS, *PITCHES, *NUMBERS[1:4], *THINGS, *YOUNG, *COLORS, "sun", "moon", "tree", "river", "stone", "bread")
"""Words that are to be said again, those of the sounds' captions among them."""

_TEMPLATES = {
    "repeat": ("say again: {words}", "repeat the words: {words}"),
    "reverse": ("say backwards: {words}", "turn the words around: {words}"),
    "recall": (
        "{a} has the {x}. {b} has the {y}. who has the {asked}?",
        "{a} has the {x}. {b} has the {y}. what does {asked} have?",
    ),
}
_PARAGRAPHS = (
    "{a} has {n} {color} {things}. {b} gives {a} {m} {things}. now {a} has {total} {things}.",
    "{a} has {total} {color} {things}. {a} gives {b} {m} {things}. now {a} has {n} {things}.",
    "the {animal} sleeps in the {place}. {a} walks to the {place}. {a} sees the {animal} in the {place}.",
    "today is {today}. tomorrow is {tomorrow}. on {tomorrow} {a} plays the {instrument}.",
    "{a} lives in {country}. the capital of {country} is {capital}. {a} likes {capital}.",
    "{b} plays the {instrument}. it sounds {pitch}. {a} hears the {pitch} {instrument}.",
    "the {thing} of {a} is {property}. the {thing} of {b} is not {property}. it is {opposite}.",
    "{a} has a {color} {thing} and {b} has a {animal}. the {animal} likes the {color} {thing}.",
)


@dataclass(frozen=True)
class TextQuestion:
    """A question without an image.

    Attributes:
        prompt: the question.
        answer: its only right answer.
        kind: one of ``TEXT_TYPES``.
        item: what has to be known, the same for all wordings.
    """

    prompt: str
    answer: str
    kind: str
    item: str

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``tune``."""
        return split_of(self.item)


def split_of(key: str) -> str:
    """``train``, ``val`` or ``tune``, by a digest of the key: no two splits share an item or a document.

    Half of all is for training; of the rest a sixth is for choosing settings.
    """
    # By these bytes of the digest low and high, which captions name, are asked for in the validation split.
    digest = hashlib.sha256(key.encode()).digest()
    if digest[2] % 2 == 0:
        return "train"
    return "tune" if digest[0] % 6 == 0 else "val"


@cache
def known_questions() -> tuple[TextQuestion, ...]:
    """Every question of the types that ask for knowledge."""
    sources = (_sums(), _comparisons(), _neighbors(), _opposites(), _facts(), _members())
    return tuple(question for source in sources for question in source)


def sample_text_question(kind: str, rng: np.random.Generator) -> TextQuestion:
    """Draws a question of a type, uniformly."""
    if kind not in IN_CONTEXT:
        fitting = _known_by_kind()[kind]
        return fitting[rng.integers(len(fitting))]
    wording = int(rng.integers(2))
    template = _TEMPLATES[kind][wording]
    if kind == "recall":
        (a, b), (x, y) = (_draw(rng, pool, 2) for pool in (NAMES, OWNED))
        second = bool(rng.integers(2))
        thing, name = (y, b) if second else (x, a)
        asked, answer = (name, thing) if wording else (thing, name)
        prompt = template.format(a=a, b=b, x=x, y=y, asked=asked)
        return TextQuestion(prompt, answer, kind, prompt)
    words = _draw(rng, SAID, int(rng.integers(2, 4)))
    said = words if kind == "repeat" else words[::-1]
    return TextQuestion(template.format(words=" ".join(words)), " ".join(said), kind, f"{kind} {' '.join(words)}")


def sample_document(rng: np.random.Generator) -> str:
    """Draws three or four paragraphs about the same two people."""
    a, b = _draw(rng, NAMES, 2)
    chosen = rng.permutation(len(_PARAGRAPHS))[: int(rng.integers(3, 5))]
    return " ".join(_paragraph(_PARAGRAPHS[index], a, b, rng) for index in chosen)


def text_words() -> set[str]:
    """Every word of the questions, answers and documents, without marks."""
    pools = (NUMBERS, DAYS, CAPITALS, CAPITALS.values(), YOUNG, COLORS, PITCHES, THINGS, _PLURALS.values(), NAMES,
             PLACES, OWNED, SAID, *OPPOSITES)  # fmt: skip
    texts = [f"{question.prompt} {question.answer}" for question in known_questions()]
    texts += [text for wordings in _TEMPLATES.values() for text in wordings] + list(_PARAGRAPHS)
    words = {word.rstrip("?.") for text in texts for word in text.split()}
    return {word for word in words if "{" not in word} | {word for pool in pools for word in pool}


@cache
def _known_by_kind() -> dict[str, list[TextQuestion]]:
    return {kind: [q for q in known_questions() if q.kind == kind] for kind in TEXT_TYPES if kind not in IN_CONTEXT}


def _sums() -> Iterator[TextQuestion]:
    for a in range(11):
        for b in range(11):
            yield from _sum(a, "plus", b, a + b)
            if a >= b:
                yield from _sum(a, "minus", b, a - b)


def _sum(a: int, sign: str, b: int, result: int) -> Iterator[TextQuestion]:
    item = f"{a} {sign} {b}"
    yield TextQuestion(f"what is {item}?", str(result), "sum", item)
    yield TextQuestion(f"how much is {NUMBERS[a]} {sign} {NUMBERS[b]}?", NUMBERS[result], "sum", item)


def _comparisons() -> Iterator[TextQuestion]:
    for a in range(len(NUMBERS)):
        for b in range(len(NUMBERS)):
            if a != b:
                item = f"compare {min(a, b)} {max(a, b)}"
                yield TextQuestion(f"which is more {a} or {b}?", str(max(a, b)), "more", item)
                yield TextQuestion(f"which is less {a} or {b}?", str(min(a, b)), "more", item)


def _neighbors() -> Iterator[TextQuestion]:
    # "a" cannot be an answer: it is an article, which the comparison of answers leaves out.
    sequences = (("number", NUMBERS), ("letter", tuple(string.ascii_lowercase[1:])), ("day", DAYS), ("month", MONTHS))
    for noun, words in sequences:
        is_cycle = noun in ("day", "month")
        for index, word in enumerate(words):
            for relation, place in (("after", index + 1), ("before", index - 1)):
                if is_cycle or 0 <= place < len(words):
                    answer, item = words[place % len(words)], f"{noun} {relation} {word}"
                    yield TextQuestion(f"what {noun} comes {relation} {word}?", answer, "next", item)
                    yield TextQuestion(f"which {noun} is just {relation} {word}?", answer, "next", item)


def _opposites() -> Iterator[TextQuestion]:
    for pair in OPPOSITES:
        for word, answer in (pair, pair[::-1]):
            item = f"opposite {' '.join(pair)}"
            yield TextQuestion(f"what is the opposite of {word}?", answer, "opposite", item)
            yield TextQuestion(f"{word} is the opposite of what?", answer, "opposite", item)


def _facts() -> Iterator[TextQuestion]:
    tables = (
        (CAPITALS, ("what is the capital of {}?", "which city is the capital of {}?", "{} has which capital?")),
        (YOUNG, ("what is a young {} called?", "what do you call a young {}?")),
        (NATURAL_COLORS, ("what color is {}?", "{} is of what color?")),
        (LEGS, ("how many legs has a {}?", "a {} has how many legs?")),
        (WHEELS, ("how many wheels has a {}?", "a {} has how many wheels?")),
    )
    for table, wordings in tables:
        for subject, answer in table.items():
            for wording in wordings:
                yield TextQuestion(wording.format(subject), answer, "fact", wordings[0].format(subject))
    for answer, wordings in SOUNDING.items():
        for wording in wordings:
            yield TextQuestion(wording, answer, "fact", wordings[0])


def _members() -> Iterator[TextQuestion]:
    names = tuple(CATEGORIES)
    for number, (name, words) in enumerate(CATEGORIES.items()):
        for index, word in enumerate(words):
            # As many yes as no; the wrong category differs from word to word.
            wrong = names[(number + 1 + index % (len(names) - 1)) % len(names)]
            for category, answer in ((name, "yes"), (wrong, "no")):
                article = "an" if category == "animal" else "a"
                yield TextQuestion(f"is {word} {article} {category}?", answer, "member", f"kind of {word}")


def _paragraph(template: str, a: str, b: str, rng: np.random.Generator) -> str:
    n, m = (int(value) for value in rng.integers(1, 10, size=2))
    thing, day = THINGS[rng.integers(len(THINGS))], int(rng.integers(len(DAYS)))
    country, (property_, opposite) = (
        tuple(CAPITALS)[rng.integers(len(CAPITALS))],
        OPPOSITES[rng.integers(len(OPPOSITES))],
    )
    n, m = n + 1, m + 1  # two at least, so that the plural is right
    return template.format(
        a=a,
        b=b,
        n=NUMBERS[n],
        m=NUMBERS[m],
        total=NUMBERS[n + m],
        thing=thing,
        things=_PLURALS[thing],
        color=tuple(COLORS)[rng.integers(len(COLORS))],
        animal=tuple(YOUNG)[rng.integers(len(YOUNG))],
        place=PLACES[rng.integers(len(PLACES))],
        today=DAYS[day],
        tomorrow=DAYS[(day + 1) % len(DAYS)],
        instrument=INSTRUMENTS[rng.integers(len(INSTRUMENTS))],
        country=country,
        capital=CAPITALS[country],
        pitch=PITCHES[rng.integers(len(PITCHES))],
        property=property_,
        opposite=opposite,
    )


def _draw(rng: np.random.Generator, pool: tuple[str, ...], count: int) -> list[str]:
    return [pool[index] for index in rng.permutation(len(pool))[:count]]
