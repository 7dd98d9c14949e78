"""Runs that someone else made, by accident or on purpose odd: nothing of this machine leaves it, nothing waits."""

import json
import os
import random
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

from safe_train.cli import safe
from safe_train.errors import InputError
from safe_train.io.fingerprints import file_sha256
from safe_train.report import read_runs, write_report
from safe_train.report.media import picture

CHANGED = {"losses": {"distractor": 3}}


def report(run):
    return CliRunner().invoke(safe, ["report", str(run)])


def rows_file(run, kind="vl"):
    (path,) = (path for path in run.glob(f"evaluation/*/rows.{kind}.jsonl") if "base" not in path.parent.name)
    return path


def edit_rows(run, change, kind="vl"):
    path = rows_file(run, kind)
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    for row in rows:
        change(row)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def embedded_pictures(run):
    assert report(run).exit_code == 0
    return (run.parent / "report.html").read_text().count("data:image/png")


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "home" / "private.png"
    path.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_pictures_that_were_evaluated_are_shown(make_run, tmp_path):
    assert embedded_pictures(make_run(tmp_path, **CHANGED)) > 0


@pytest.mark.parametrize("way", ["path", "link", "link, digest of another", "no digest"])
def test_a_private_picture_is_not_embedded(make_run, tmp_path, private, way):
    run, link = make_run(tmp_path / "runs", **CHANGED), tmp_path / "runs" / "embedded-data-abc" / "a.png"
    link.parent.mkdir()
    link.symlink_to(private)

    def change(row):
        row["image"] = str(private if way == "path" else link)
        if way == "no digest":
            del row["image_sha256"]

    edit_rows(run, change)
    assert embedded_pictures(run) == 0
    page = (tmp_path / "runs" / "report.html").read_text()
    reason = "its contents were not recorded" if way == "no digest" else "not the file that was evaluated"
    assert reason in page
    assert file_sha256(private) not in page


def test_who_has_the_digest_has_the_picture(make_run, tmp_path, private):
    """Negative control: it is the digest that decides."""
    run = make_run(tmp_path / "runs", **CHANGED)
    edit_rows(run, lambda row: row.update(image=str(private), image_sha256=file_sha256(private)))
    assert embedded_pictures(run) > 0


def test_pictures_of_older_runs_are_shown_from_the_programs_own_folder(tmp_path):
    for folder, shown in (("embedded-data-0abc", True), ("elsewhere", False)):
        path = tmp_path / folder / "a.png"
        path.parent.mkdir()
        Image.new("RGB", (8, 8)).save(path)
        assert (picture(path, None).uri is not None) == shown


def test_pictures_and_clips_that_are_no_regular_files(make_run, tmp_path):
    """A FIFO has no end that comes, and neither has /dev/zero."""
    run, fifo, zero = make_run(tmp_path, **CHANGED), tmp_path / "fifo.png", tmp_path / "zero.png"
    os.mkfifo(fifo)
    zero.symlink_to("/dev/zero")
    for path in (fifo, zero, tmp_path, tmp_path / ("a" * 300), "a\0b"):
        edit_rows(run, lambda row, path=path: row.update(image=str(path)))
        assert embedded_pictures(run) == 0


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "metrics.jsonl", "results.json", "rows.vl.jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "bytes", "cut"])
def test_files_of_a_run_that_are_none(make_run, tmp_path, name, kind):
    """The page is written without the run, or one line says why there is none."""
    run = make_run(tmp_path / "odd", seed=1, **CHANGED)
    make_run(tmp_path / "good", seed=2)
    path = next(path for path in sorted(run.rglob(name)) if "base-" not in str(path))
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "bytes":
            path.write_bytes(content[:-3] + b"\xff\xfe")
        case "cut":
            path.write_bytes(content[: len(content) * 2 // 3])
    result = report(tmp_path)
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert result.exit_code in (0, 2)
    assert result.stderr.count("\n") == (result.exit_code == 2)


DEEP = "[" * 100_000
ODD = ["NaN", "-Infinity", "Infinity", "1e999", "null", '"x"', "[]", "{}", "-1", "true", '"\\ud83d"', "9" * 5_000, DEEP]


def leaves(value, place=()):
    """Where every value of a JSON document stands."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*place, key))


def replaced(value, place, text):
    """The document as JSON with ``text`` at a place; None for ``text`` leaves the value out."""
    if not place:
        return text or ""
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in place[:-1]:
        parent = parent[key]
    if text is None:
        del parent[place[-1]]
        return json.dumps(copy)
    parent[place[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', text)


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "results.json"])
def test_any_value_may_be_another(make_run, tmp_path, name):
    """A sample of all places and values; each is shown, left out with a reason, or told in one line."""
    run = make_run(tmp_path / "runs", text_losses={"silence": 2}, bits={"silence": 0.1}, **CHANGED)
    (path,) = (found for found in run.rglob(name) if "base-" not in str(found))
    whole = path.read_text()
    value = json.loads(whole)
    rng, lines = random.Random(0), []
    pairs = [(place, text) for place in leaves(value) for text in (None, *ODD)]
    chosen = [pair for pair in pairs if pair[0][:1] in (("training",), ("effective",), ("key",)) and pair[1] != DEEP]
    for place, text in rng.sample(pairs, 25) + rng.sample(chosen, 40):
        path.write_text(replaced(value, place, text))
        try:
            found = read_runs([run])
            write_report(found, tmp_path / "page.html")
        except InputError as error:
            lines.append(str(error))
        except Exception as error:
            raise AssertionError(f"{name} with {str(text)[:20]} at {place}") from error
    assert all("\n" not in line and len(line) < 2_000 for line in lines)
    path.write_text(whole)
    write_report(read_runs([run]), tmp_path / "page.html")


def test_line_separators_in_questions_and_captions(make_run, tmp_path):
    """They are no line breaks in JSON lines."""
    run = make_run(tmp_path, **CHANGED)
    path = rows_file(run)
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    for row in rows:
        row["question"] = "is it\u2028a circle?\x85\x1c"
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    assert report(run).exit_code == 0
    assert "is it\u2028a circle?" in (tmp_path / "report.html").read_text()


def test_answers_of_a_base_elsewhere_are_not_read(make_run, tmp_path):
    run = make_run(tmp_path)
    path = next(run.glob("evaluation/*/results.json"))
    content = json.loads(path.read_text()) | {"base_answers": "../../../elsewhere"}
    del content["sha256"]  # as of an earlier version
    path.write_text(json.dumps(content))
    (left,) = read_runs([run]).left_out
    assert "base_answers: not a folder's name" in left.reason


def test_names_of_a_run_steer_no_terminal(make_run, tmp_path):
    run = make_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"variant": "\x1b[2J\nWARNING forged"}))
    shutil.copytree(run, tmp_path / "left\x1b[31m")
    result = report(tmp_path)
    assert "\x1b" not in result.stdout + result.stderr
    assert "\nWARNING forged" not in result.stdout
