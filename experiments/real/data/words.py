"""The closed sets of words that are asked for, and their questions."""

from __future__ import annotations

import string

NUMBER = "Which number is said?"
ORDINAL = "Which ordinal number is said?"
WEEKDAY = "Which day of the week is said?"
MONTH = "Which month is said?"
LETTER = "Which letter is said?"

_NAMES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

NUMBERS = {str(value): name for value, name in enumerate(_NAMES)} | {
    str(10 * tens): name for tens, name in enumerate(_TENS, start=3)
}
"""By digits, the number in English."""

ORDINALS = {
    str(value): name
    for value, name in enumerate(
        (
            "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
            "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
            "twentieth",
        ),
        start=1,
    )
}  # fmt: skip
"""By digits, the ordinal number in English."""

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

LETTERS = {letter: letter.upper() for letter in string.ascii_lowercase}
