"""Ten examples: the first of each kind, a row each, whatever characters an answer has."""

from experiments.real.examples import choose_ten, examples_markdown
from safe_train.report.examples import AnsweredExample
from safe_train.report.media import Clip, Picture


def example(part, number, *, safe="yes", picture=True):
    image = Picture(f"/data/{number}.png", None) if picture else None
    return AnsweredExample(
        "full_retention", 1, part, "distractor", "unchanged", str(number), "kind", "what is it?", ["yes"], image,
        Clip(f"/clips/{number}.wav"), "no", safe, 0.0, 1.0,
    )  # fmt: skip


def test_four_three_and_three_in_this_order():
    mixed = [example(part, number) for number in range(6) for part in ("audio", "VL", "text")]
    chosen = choose_ten(mixed)
    assert [each.part for each in chosen] == ["VL"] * 4 + ["text"] * 3 + ["audio"] * 3
    assert [each.row_id for each in chosen] == ["0", "1", "2", "3", "0", "1", "2", "0", "1", "2"]


def test_a_row_is_a_line_with_seven_cells():
    table = examples_markdown([example("VL", 7, safe="a | b\nc"), example("audio", 8, picture=False)])
    lines = table.splitlines()
    assert lines[2] == "| full_retention | what is it? | 7 | 7.wav | yes | no | a \\| b c |"
    assert lines[3] == "| full_retention | what is it? |  | 8.wav | yes | no (in silence) | yes |"
