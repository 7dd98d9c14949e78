"""The page holds what it needs, escapes what it was given, and can be read by everyone."""

import itertools
import json
import re
from importlib.resources import files

import pytest

from safe_train.report.charts.panel import APART
from safe_train.report.examples import HEARD
from tests.report.pages import HOSTILE, read, report_on


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
    assert "The positive control failed every condition with audio attached and the gate open" in text
    for arm in figures["arms"]:
        assert all(condition in text for condition in (*arm["vl"], "matched"))
    for run in figures["runs"]:
        assert all(digest in text for digest in run["sha256"].values())


def test_accuracy_stands_by_type_of_question(make_run, tmp_path):
    """The questions of a type are half of all, and the lost answers are those of one type or the other."""
    out = report_on(make_run(tmp_path, losses={"distractor": 6}))
    (arm,) = json.loads(out.figures.read_text(encoding="utf-8"))["arms"]
    cell = arm["vl"]["distractor"]
    assert list(cell["by_kind"]) == ["count", "shape"]
    assert sum(cell["by_kind"].values()) / 2 == pytest.approx(cell["accuracy"]) == pytest.approx(0.9)
    assert arm["vl"]["bypass"]["by_kind"] == {"count": 1.0, "shape": 1.0}
    page = out.page.read_text(encoding="utf-8")
    (table,) = re.findall(r'aria-label="Accuracy on VL questions by type of question">(.*?)</table>', page, re.DOTALL)
    for kind, accuracy in cell["by_kind"].items():
        assert re.search(rf"<th scope=\"row\">{kind}</th>\s*<td [^>]*>{100 * accuracy:.1f}.%<", table), table
    assert table.count("100.0") >= 2
    assert "Accuracy on audio questions by type" not in page  # of one type


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


@pytest.mark.parametrize(("gains", "is_drawn"), [((8,), False), ((8, 6), True), ((8, 8), False)])
def test_the_caption_speaks_of_the_front_where_there_is_one(make_run, tmp_path, gains, is_drawn):
    """One arm that hears better and loses more than another: neither beats the other."""
    for heard, (variant, lost) in zip(gains, (("no_retention", 30), ("full_retention", 0)), strict=False):
        make_run(tmp_path, variant, heard=heard, losses={"distractor": lost})
    page = report_on(tmp_path).page.read_text(encoding="utf-8")
    assert ('class="front"' in page) is is_drawn
    assert ("Dotted: the Pareto front" in page) is is_drawn


@pytest.mark.parametrize(
    ("seeds", "words"), [((42,), "1 run in 1 variant, seed 42."), ((42, 43), "2 runs in 1 variant, seeds 42, 43.")]
)
def test_runs_are_counted_in_words_that_fit(make_run, tmp_path, seeds, words):
    for seed in seeds:
        make_run(tmp_path, seed=seed)
    assert words in " ".join(read(report_on(tmp_path).page).text.split())


def test_the_worst_of_several_clips_stands_where_a_narrow_screen_shows_it(full):
    header = full.page.read_text(encoding="utf-8").split("<thead>")[1].split("</thead>")[0]
    names = re.findall(r'<th scope="col">(\w+)</th>', header)
    assert names[:3] == ["variant", "bypass", "worst_of_4"]
    assert sorted(names[3:]) == sorted(["silence", "distractor", "contradictory", "noise", "loud"])
