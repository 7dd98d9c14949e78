"""Definition files: what is written is read back the same, and the committed one is that of the specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spython.main.parse.parsers import SingularityParser

from containers.definition import parse_definition, write_definition
from containers.image import DEFINITION, DOCKER, PARTS, BuildChoices, safe_image
from containers.spec import DebootstrapBase, DockerBase, FileCopy, ImageSpec, Label

DEBOOTSTRAP = DebootstrapBase(suite="trixie", mirror="http://mirror.example/debian", include=("ca-certificates", "gpg"))
WORD = st.text("abcXYZ019._-/:%#=", min_size=1).filter(lambda word: not word.startswith("%"))
LINE = st.text("abc XYZ:#%$\"'\\{}[]()=\t", max_size=30).filter(lambda line: not line.lstrip().startswith("%"))
TEXT = st.lists(LINE, max_size=8).map("\n".join).filter(lambda text: not text or _has_no_blank_ends(text))
BASES = st.one_of(
    st.builds(DockerBase, image=WORD),
    st.builds(DebootstrapBase, suite=WORD, mirror=WORD, include=st.lists(WORD, max_size=3).map(tuple)),
)
SPECS = st.builds(
    ImageSpec,
    base=BASES,
    files=st.lists(st.builds(FileCopy, WORD, WORD), max_size=3).map(tuple),
    labels=st.lists(st.builds(Label, WORD, st.lists(WORD, min_size=1, max_size=3).map(" ".join)), max_size=3).map(
        tuple
    ),
    environment=TEXT,
    post=TEXT,
    test=TEXT,
    runscript=TEXT,
    help=TEXT,
)


def _has_no_blank_ends(text):
    lines = text.split("\n")
    return bool(lines[0].strip() and lines[-1].strip())


def written(spec, folder):
    path = folder / "image.def"
    path.write_text(write_definition(spec), encoding="utf-8")
    return path


@pytest.mark.parametrize("base", [DOCKER, DEBOOTSTRAP])
def test_the_image_is_read_back_as_it_was_written(base, tmp_path):
    spec = safe_image(BuildChoices(base=base, commit="0123abc", index_url="https://index.example/simple", offline=True))
    assert parse_definition(written(spec, tmp_path)) == spec


@given(spec=SPECS)
def test_any_specification_is_read_back_as_it_was_written(spec, tmp_path_factory):
    assert parse_definition(written(spec, tmp_path_factory.mktemp("definition"))) == spec


def test_spython_alone_would_not_give_it_back(tmp_path):
    """The reason for the subclasses: letter case, and the text of %test."""
    spec = ImageSpec(base=DockerBase(image="Registry.example/Debian:Trixie"), test="echo 'from: here'\ntrue")
    path = written(spec, tmp_path)
    (recipe,) = SingularityParser(str(path)).recipe.values()
    assert recipe.fromHeader != spec.base.image
    assert recipe.test != spec.test
    assert parse_definition(path) == spec


def test_the_committed_definition_is_that_of_the_specification():
    assert DEFINITION.read_text(encoding="utf-8") == write_definition(safe_image()), "run python -m containers.image"


def test_both_bootstraps_have_one_body():
    bodies = [
        write_definition(safe_image(BuildChoices(base=base))).partition("\n\n")[2] for base in (DOCKER, DEBOOTSTRAP)
    ]
    assert bodies[0] == bodies[1]


def test_headers_of_debootstrap():
    headers = write_definition(safe_image(BuildChoices(base=DEBOOTSTRAP))).partition("\n\n")[0]
    assert headers.splitlines() == [
        "Bootstrap: debootstrap",
        "OSVersion: trixie",
        "MirrorURL: http://mirror.example/debian",
        "Include: ca-certificates gpg",
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"offline": True}, "pip_options='--no-index --find-links /media'"),
        ({"index_url": "https://index.example/simple"}, "pip_options='--index-url https://index.example/simple'"),
        ({"commit": "0123abc"}, "org.opencontainers.image.revision 0123abc"),
        ({"lock": "requirements/lock.txt"}, "requirements/lock.txt /opt/source/requirements/lock.txt"),
    ],
)
def test_each_choice_of_a_build_reaches_the_definition(choice, expected):
    text = write_definition(safe_image(BuildChoices(**choice)))
    assert expected in text
    if "lock" not in choice:
        assert expected not in write_definition(safe_image())


@pytest.mark.parametrize("text", ["%post", "true\n  %files", "\ntrue", "true\n", "true\n\t", "a\rb", "a\x0bb"])
def test_text_that_a_definition_cannot_hold_is_refused(text):
    with pytest.raises(ValueError, match="%test: expected"):
        ImageSpec(base=DOCKER, test=text)


@pytest.mark.parametrize("path", ["", "with space", "tab\there"])
def test_paths_with_white_space_are_refused(path):
    with pytest.raises(ValueError, match="white space"):
        FileCopy(path, "/target")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a b", "x"), ("a", ""), ("a", "two\nlines"), ("a", " x")])
def test_labels_that_would_be_read_back_differently_are_refused(name, value):
    with pytest.raises(ValueError, match="%labels"):
        Label(name, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bootstrap: localimage\nFrom: x.sif\n", "docker or debootstrap"),
        ("Bootstrap: docker\nMirrorURL: x\n", "docker or debootstrap"),
        ("Bootstrap docker\n", "a header such as"),
        ("Bootstrap: docker\nFrom: x\n\n%setup\ntrue\n", "a section among"),
        ("Bootstrap: docker\nFrom: x\n\n%post\ntrue\n\n%post\nfalse\n", "each section once"),
    ],
)
def test_a_definition_with_anything_else_is_an_error(text, message, tmp_path):
    path = tmp_path / "image.def"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        parse_definition(path)


def test_the_image_is_told_no_mirror_and_no_index_by_default():
    text = DEFINITION.read_text(encoding="utf-8")
    assert "://" not in text
    assert "pip_options=''" in text
    assert all("://" not in part.read_text(encoding="utf-8") for part in PARTS.iterdir())
