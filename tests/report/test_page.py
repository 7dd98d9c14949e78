"""The page holds what it needs, escapes what it was given, and can be read by everyone."""

import base64
import itertools
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

from safe_train.cli import safe
from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS
from safe_train.io.fingerprints import file_sha256
from safe_train.report import read_runs, write_report
from safe_train.report.charts.panel import APART, COLORS, Look, Panel, Point
from safe_train.report.charts.scales import linear
from safe_train.report.examples import CHANGED, HEARD, UNCHANGED, choose_examples
from safe_train.report.grouping import group_runs
from safe_train.report.media import LARGEST_CLIP, LARGEST_SIDE, Clip, clip, picture

HOSTILE = "</b><script>document.title='taken'</script><img src=x onerror=alert(1)>"
ALL_VL, ALL_AUDIO = tuple(VL_CONDITIONS), tuple(AUDIO_CONDITIONS)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and whether each one that was opened was closed."""

    def __init__(self):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def report_on(*paths, output=None):
    return write_report(read_runs(paths), output)


@pytest.fixture(scope="module")
def full(make_run, tmp_path_factory):
    """Two variants, one with two seeds, every condition, a positive control, hostile answers."""
    root = tmp_path_factory.mktemp("full")
    whole = {"conditions": ALL_VL, "audio_conditions": ALL_AUDIO}
    for variant, seed, lost in (("no_retention", 42, 20), ("full_retention", 42, 1), ("full_retention", 43, 2)):
        losses = dict.fromkeys(ALL_VL[1:], lost)
        make_run(root, variant, seed, losses=losses, answer=HOSTILE, **whole)
    make_run(root, damage=2.0, losses=dict.fromkeys(ALL_VL[1:], 60), heard=0, **whole)
    return report_on(root)


def test_text_from_runs_is_text(full):
    page = full.page.read_text(encoding="utf-8")
    reader = read(full.page)
    assert HOSTILE not in page
    assert HOSTILE in reader.text  # shown as it was said
    assert [tag for tag, _ in reader.elements].count("script") == 1
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]


def test_only_the_scripts_hash_may_run(full):
    (policy,) = [
        a["content"] for tag, a in read(full.page).elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]+=*'$", policy)


def test_nothing_is_fetched(full):
    for tag, attributes in read(full.page).elements:
        for name in ("src", "href", "srcset", "poster", "data"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
    assert not re.search(r"url\(|@import", files("safe_train.report").joinpath("style.css").read_text())


def test_headings_go_down_one_step_at_a_time(full):
    levels = [int(tag[1]) for tag, _ in read(full.page).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_tables_charts_and_images_have_their_words(full):
    elements = read(full.page).elements
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in elements if tag == "th")
    assert all(attributes["alt"] for tag, attributes in elements if tag == "img")
    charts = [attributes for tag, attributes in elements if tag == "svg" and attributes["class"] == "chart"]
    assert len(charts) >= 10
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [a["href"][1:] for tag, a in elements if tag == "a"]
    assert set(targets) <= set(identifiers)


def test_the_page_shows_the_figures_of_the_json(full):
    text = " ".join(read(full.page).text.split())
    figures = json.loads(full.figures.read_text(encoding="utf-8"))
    assert figures["verdict"] in text
    for arm in figures["arms"]:
        cell = arm["vl"]["distractor"]
        assert f"{100 * cell['change']['mean']:+.1f}".replace("-", "\u2212") in text
        assert f"{cell['kl']:.4f}" in text
    assert "The positive control failed every condition with audio and the gate fully open" in text
    for arm in figures["arms"]:
        assert all(condition in text for condition in (*arm["vl"], "matched"))
    for run in figures["runs"]:
        assert all(digest in text for digest in run["sha256"].values())


def test_json_holds_no_media(full):
    assert "base64" not in full.figures.read_text(encoding="utf-8")
    assert full.page.read_text(encoding="utf-8").count("data:audio/wav;base64,") == HEARD + sum(
        1 for example in json.loads(full.figures.read_text())["examples"][:-HEARD] if ".wav" in example["clip"]["words"]
    )


def test_a_condition_without_effect_gets_no_figure(make_run, tmp_path):
    make_run(tmp_path, updates=(0.0, 0.0), losses={"silence": 30})
    text = read(report_on(tmp_path).page).text
    assert "not a retention measurement" in text
    assert "\u221250.0" not in text


def test_differing_bypass_is_told(make_run, tmp_path):
    make_run(tmp_path, bypass_equal=False)
    assert "DIFFERS" in read(report_on(tmp_path).page).text


def test_runs_without_curves_or_sweeps_have_no_empty_sections(make_run, tmp_path):
    page = report_on(make_run(tmp_path, lines=0)).page.read_text(encoding="utf-8")
    assert 'id="training"' not in page
    assert 'id="sweeps"' not in page
    assert 'id="updates"' in page


GATED = ("bypass", "silence", "distractor", "gate_0.5")
KINDS = ("VL change with", "text-only change with", "own clip")


@pytest.mark.parametrize(
    ("how", "kinds"),
    [
        ({"text_losses": {}}, KINDS),
        ({}, (KINDS[0], KINDS[2])),
        ({"text_losses": {}, "base_says": "zebra"}, (KINDS[1], KINDS[2])),
        ({"text_losses": {}, "audio_conditions": ("matched", "silence", "distractor")}, KINDS[:2]),
    ],
)
def test_the_gate_has_a_chart_for_each_kind_of_rows_that_it_was_measured_on(make_run, tmp_path, how, kinds):
    make_run(tmp_path, **{"conditions": GATED, "audio_conditions": ("matched", "silence", "gate_0.5"), **how})
    page = report_on(tmp_path).page.read_text(encoding="utf-8")
    section = page[page.index('id="sweeps"') :].split("</section>")[0]
    assert [kind for kind in KINDS if kind in section] == list(kinds)
    assert section.count("<svg") == len(kinds) + section.split("<figure>")[0].count("<svg")  # and the legend's


SWEPT = ("bypass", "silence", "distractor", "gate_0.25", "gate_0.5", "gate_0.75")


def test_lines_of_one_sweep_stand_apart(make_run, tmp_path):
    """Arms that change nothing would lie on each other: of two, no interval may hide another."""
    for variant in ("soft_retention", "full_retention"):
        make_run(tmp_path, variant, conditions=SWEPT)
    page = report_on(tmp_path).page.read_text(encoding="utf-8")
    chart = next(part for part in page.split("<svg ") if "VL change with an unrelated clip" in part)
    whiskers = re.findall(r'<line class="whisker [^"]*" x1="([\d.]+)" x2="([\d.]+)"', chart)
    across = [float(left) for left, right in whiskers if left == right]
    assert len(across) == 2 * 5
    assert min(abs(a - b) for a, b in itertools.combinations(across, 2)) == pytest.approx(APART, abs=0.11)


def test_points_of_one_place_stand_apart_about_it():
    panel = Panel(x=linear([0.0, 100.0]), y=linear([0.0, 1.0]), title="")
    assert panel.shifts([50.0, 10.0, 50.0, 50.0]) == [-APART, 0.0, 0.0, APART]
    assert panel.shifts([10.0, 50.0]) == [0.0, 0.0]


@pytest.mark.parametrize(("gains", "is_drawn"), [((8,), False), ((8, 6), True), ((8, 8), False)])
def test_the_caption_speaks_of_the_front_where_there_is_one(make_run, tmp_path, gains, is_drawn):
    """One arm that hears better and loses more than another: neither beats the other."""
    for heard, (variant, lost) in zip(gains, (("no_retention", 30), ("full_retention", 0)), strict=False):
        make_run(tmp_path, variant, heard=heard, losses={"distractor": lost})
    page = report_on(tmp_path).page.read_text(encoding="utf-8")
    assert ('class="front"' in page) is is_drawn
    assert ("The dotted line joins" in page) is is_drawn


@pytest.mark.parametrize(
    ("seeds", "words"), [((42,), "1 run in 1 arm, seed 42."), ((42, 43), "2 runs in 1 arm, seeds 42, 43.")]
)
def test_runs_are_counted_in_words_that_fit(make_run, tmp_path, seeds, words):
    for seed in seeds:
        make_run(tmp_path, seed=seed)
    assert words in " ".join(read(report_on(tmp_path).page).text.split())


def test_the_worst_of_several_clips_stands_where_a_narrow_screen_shows_it(full):
    header = full.page.read_text(encoding="utf-8").split("<thead>")[1].split("</thead>")[0]
    names = re.findall(r'<th scope="col">(\w+)</th>', header)
    assert names[:3] == ["arm", "bypass", "worst_of_4"]
    assert sorted(names[3:]) == sorted(["silence", "distractor", "contradictory", "noise", "loud"])


def test_the_machine_of_a_run_is_named(full):
    words = "Trained on a processor, 2 cores, 1 thread, cuda:0, a GPU, at commit abc123, changed."
    assert words in " ".join(read(full.page).text.split())


@pytest.mark.parametrize("machine", [None, [], {"processor": 3}, {"processor": "x", "cores": "many"}])
def test_a_machine_that_is_not_described_is_left_out(make_run, tmp_path, machine):
    run = make_run(tmp_path)
    described = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(described | {"machine": machine}))
    assert "Trained on" not in report_on(tmp_path).page.read_text(encoding="utf-8")


def test_no_setting_is_listed_twice(full):
    """What settings came to has names of its own."""
    shared = re.findall(r"<dt>([\w.]+)</dt>", full.page.read_text(encoding="utf-8"))
    assert "effective.retention_variant.null_space_rank" in shared
    assert [name for name in shared if name.startswith(("retention", "effective"))] == list(
        dict.fromkeys(name for name in shared if name.startswith(("retention", "effective")))
    )


def test_examples_are_changed_answers_first_and_the_same_again(make_run, tmp_path):
    make_run(tmp_path, losses={"distractor": 9})
    make_run(tmp_path, "no_retention", losses={"silence": 9})
    make_run(tmp_path, damage=2.0, losses=dict.fromkeys(("silence", "distractor"), 60))
    groups, _ = group_runs(read_runs([tmp_path]).runs)
    found = choose_examples(groups)
    expected = ["right to wrong"] * CHANGED + ["unchanged"] * UNCHANGED + ["heard"] * HEARD
    assert [example.change for example in found] == expected
    assert [example.arm for example in found[:4]] == ["no_retention", "full_retention"] * 2  # and no control
    assert len({example.row_id for example in found}) == len(found)
    assert found == choose_examples(groups)
    assert (found[0].base, found[0].safe, found[0].references) == ("0", "one low bell", ["0"])


@pytest.mark.parametrize("words", ["silence", "white noise -20 dB, seed 3"])
def test_what_is_no_file_has_no_player(words):
    assert clip(words, {}) == Clip(words)


def test_a_clip_is_embedded_as_it_is_in_its_file(tmp_path):
    path = tmp_path / "a bell.wav"
    soundfile.write(path, np.zeros(800), 16_000)
    loud = clip(f"{path} +20 dB", {str(path): file_sha256(path)})
    assert loud.words == "a bell.wav, heard at +20 dB"
    assert loud.uri is not None
    assert base64.b64decode(loud.uri.removeprefix("data:audio/wav;base64,")) == path.read_bytes()


def test_a_clip_that_cannot_be_embedded_is_named(tmp_path):
    large, odd = tmp_path / "large.wav", tmp_path / "odd.aiff"
    large.write_bytes(bytes(LARGEST_CLIP + 1))
    odd.write_bytes(b"x")
    for path, problem in (
        (large, "1.0 MB, too large to be embedded"),
        (odd, ".aiff is not played by browsers"),
        (tmp_path / "gone.wav", "no such file"),
    ):
        assert clip(str(path), {}) == Clip(str(path), None, problem)


def test_images_are_made_small_and_broken_ones_named(tmp_path):
    Image.new("RGB", (2_000, 1_000)).save(tmp_path / "large.png")
    small = picture(tmp_path / "large.png", file_sha256(tmp_path / "large.png")).uri
    with Image.open(BytesIO(base64.b64decode(small.partition(",")[2]))) as image:
        assert image.size == (LARGEST_SIDE, LARGEST_SIDE // 2)
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = picture(tmp_path / "broken.png", file_sha256(tmp_path / "broken.png"))
    assert broken.uri is None
    assert broken.problem


def test_names_in_charts_are_escaped():
    panel = Panel(linear([0.0, 1.0]), linear([0.0, 1.0]), HOSTILE, HOSTILE)
    panel.rule(0.5, "margin", HOSTILE)
    panel.point(Point(0.0, 0.0, label=HOSTILE), Look(0))
    drawn = panel.svg(HOSTILE)
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") == 6  # title, axis, rule, point, and two in the text alternative


def luminance(color):
    """Relative luminance of a color. Source: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") >= 4.5 > contrast("#777777", "#ffffff")  # the well-known limit


def test_colors_stand_out_in_light_and_dark():
    style = files("safe_train.report").joinpath("style.css").read_text()
    for palette in palettes(style):
        for name in ("ink", "muted", "accent", "good", "bad", "open"):
            for ground in ("paper", "good-tint", "bad-tint", "open-tint"):
                assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
        for number in range(COLORS):
            assert contrast(palette[f"c{number}"], palette["paper"]) >= 3.0, number


def palettes(style):
    """The three palettes of the style sheet: light, dark, print."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 3
    found = []
    for block in blocks:
        colors = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]+)", block))
        found.append({name: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for name, v in colors.items()})
    return found


def invoke(*arguments):
    return CliRunner().invoke(safe, ["report", *map(str, arguments)])


def test_the_command_prints_the_table_and_writes_beside_the_runs(make_run, tmp_path):
    make_run(tmp_path / "runs", seed=42)
    unfinished = make_run(tmp_path / "runs", seed=43)
    (unfinished / "metrics.json").unlink()
    result = invoke(tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "full_retention 42" in result.stdout
    assert f"left out: {unfinished}: not finished" in result.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_file()} == {"report.html", "report.json"}


def test_the_page_goes_where_it_is_asked_to(make_run, tmp_path):
    output = tmp_path / "new" / "page.html"
    assert invoke(make_run(tmp_path), "--output", output, "--picture", tmp_path / "p.png").exit_code == 0
    assert output.with_suffix(".json").is_file()
    assert (tmp_path / "p.png").is_file()


def test_the_default_place_is_the_folder_of_all_runs(make_run, tmp_path):
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    assert report_on(*runs).page == tmp_path / "report.html"


@pytest.mark.parametrize("output", ["taken", "file/page.html", "figures.json"])
def test_an_output_that_cannot_be_written(make_run, tmp_path, output):
    run = make_run(tmp_path / "runs")
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    result = invoke(run, "--output", tmp_path / output)
    assert result.exit_code == 2
    assert str(tmp_path / output) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "taken", "file"}
    assert list((tmp_path / "taken").iterdir()) == []


def test_runs_without_stored_answers_make_no_page(make_run, tmp_path):
    run = make_run(tmp_path)
    (run / "config.json").unlink()
    result = invoke(run)
    assert result.exit_code == 2
    assert f"{run}: expected a run with stored answers" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_damaged_rows_are_one_line(make_run, tmp_path):
    run = make_run(tmp_path)
    path = next(path for path in Path(run).glob("evaluation/*/rows.vl.jsonl") if "base-" not in str(path))
    path.write_text("{}\n")
    result = invoke(run)
    assert result.exit_code == 2
    assert f"{path}: expected the rows of an evaluation" in result.stderr
    assert not (tmp_path / "report.html").exists()
