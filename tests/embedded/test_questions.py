"""Every question about a scene, answered again by counting the scene's items."""

import re

from safe_train.embedded.questions import QUESTION_TYPES, Question, questions_about, sample_question
from safe_train.embedded.scenes import Item, Scene, sample_scene, scan_indices

PLACES = {0: "top left", 1: "top right", 2: "bottom left", 3: "bottom right"}


def scenes(rng, count=200):
    scans = scan_indices("train")
    return [sample_scene(rng, scans) for _ in range(count)]


def answers_to(text, scene):
    """All answers that the scene supports, from the words of the question alone."""
    shapes = [item for item in scene.items if item.digit is None]
    digits = [item for item in scene.items if item.digit is not None]
    if text == "what digit is shown?":
        return {str(item.digit) for item in digits}
    if text == "where is the digit?":
        return {PLACES[item.position] for item in digits}
    if found := re.fullmatch(r"what (color|size) is the (\w+)\?", text):
        return {getattr(item, found[1]) for item in shapes if item.shape == found[2]} if one(shapes, found[2]) else {}
    if found := re.fullmatch(r"where is the (\w+)\?", text):
        return {PLACES[item.position] for item in shapes if item.shape == found[1]}
    if found := re.fullmatch(r"what shape is (\w+)\?", text):
        return {item.shape for item in shapes if item.color == found[1]} if one(shapes, found[1]) else {}
    if text == "how many shapes are there?":
        return {str(len(shapes))}
    if found := re.fullmatch(r"how many (\w+)s are there\?", text):
        return {str(sum(item.shape == found[1] for item in shapes))}
    found = re.fullmatch(r"is there a (?:(\w+) )?(\w+)\?", text)
    assert found, f"a question of no known form: {text}"
    return {"yes" if any(item.shape == found[2] and found[1] in (None, item.color) for item in shapes) else "no"}


def one(items, word):
    """Whether the question's "the" points to a single item."""
    return sum(word in (item.shape, item.color) for item in items) == 1


def test_every_question_has_the_one_answer_that_a_recount_gives(rng):
    for scene in scenes(rng):
        for question in questions_about(scene):
            assert answers_to(question.text, scene) == {question.answer}, (question, scene)


def test_no_question_is_asked_twice_about_a_scene(rng):
    for scene in scenes(rng):
        texts = [question.text for question in questions_about(scene)]
        assert len(set(texts)) == len(texts)


def test_the_recount_finds_a_wrong_answer_and_a_question_with_two():
    """Negative control."""
    scene = Scene((Item(0, "circle", "red", "small"), Item(3, "circle", "blue", "large")), (0, 0))
    assert answers_to("how many circles are there?", scene) != {"1"}
    assert len(answers_to("what color is the circle?", scene)) != 1
    assert len(answers_to("where is the circle?", scene)) == 2
    assert not any(re.match("(where|what color|what size) is the circle", q.text) for q in questions_about(scene))


def test_all_seven_types_occur_about_equally_often_in_what_is_drawn(rng):
    drawn = [sample_question(scene, rng) for scene in scenes(rng, 2_000)]
    counts = {kind: sum(question.question_type == kind for question in drawn) for kind in QUESTION_TYPES}
    assert sum(counts.values()) == len(drawn)
    assert min(counts.values()) > 0.03 * len(drawn), counts  # a digit is in one scene of four
    yes = [question.answer for question in drawn if question.question_type == "yes/no"]
    assert 0.4 < yes.count("yes") / len(yes) < 0.6


def test_answer_types_are_those_of_vqa():
    kinds = {kind: Question("", "", kind).answer_type for kind in QUESTION_TYPES}
    assert kinds.pop("yes/no") == "yes/no"
    assert (kinds.pop("count"), kinds.pop("digit")) == ("number", "number")
    assert set(kinds.values()) == {"other"}
