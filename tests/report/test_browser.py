"""A real browser opens the page: no error, no request, nothing wider than the screen; light, dark, without script."""

from collections.abc import Iterator

import pytest

from safe_train.evaluation.conditions import conditions_for
from safe_train.report import read_runs, write_report
from tests.report.browser import NAMES, Browser, browser, find_browser

COMMAND = find_browser()
DESKTOP, PHONE = 1280, 390

pytestmark = pytest.mark.skipif(COMMAND is None, reason=f"no browser on PATH: none of {', '.join(NAMES)}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert COMMAND is not None
    with browser(COMMAND) as started:
        yield started


@pytest.fixture(scope="module")
def report_page(make_run, tmp_path_factory):
    """Four arms with long names, hostile words, a control, one that measures nothing, and every section."""
    root = tmp_path_factory.mktemp("runs")
    whole = {"conditions": tuple(conditions_for("vl")), "audio_conditions": tuple(conditions_for("audio"))}
    losses = dict.fromkeys(list(conditions_for("vl"))[1:], 7)
    words = "<script>throw 1</script>" + 60 * "longword"
    settings = {"data.silence_prob": "0.15", "data.loud_prob": "0.15", "retention.null_space_target": "update"}
    make_run(root, "no_retention", losses=losses, answer=words, **whole)
    make_run(root, "full_retention", text_losses=dict.fromkeys(losses, 9), bits={"noise": 0.2}, **whole)
    make_run(root, "full_retention", settings=settings, **whole)
    make_run(root, "soft_retention", base_says="zebra", losses=losses)
    make_run(root, damage=2.0, losses=dict.fromkeys(losses, 60), heard=0, **whole)
    return write_report(read_runs([root])).page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_page_opens_without_error_or_request_and_fits(chromium, report_page, tmp_path, width, dark):
    page = chromium.open(report_page, width=width, dark=dark)
    assert page.errors == []
    assert page.requests == []
    page.value("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value("document.images.length && [...document.images].every(image => image.naturalWidth > 0)")
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(251, 251, 249)") is not dark
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_a_table_that_goes_on_fades_out_until_its_end(chromium, report_page):
    """Of the first table; on a wide screen it is whole."""
    page = chromium.open(report_page, width=PHONE)
    box = "document.querySelector('.scroll')"
    fades = f"getComputedStyle({box}).maskImage !== 'none'"
    assert page.value(f"{box}.scrollWidth > {box}.clientWidth")
    assert page.value(fades)
    page.value(f"{box}.scrollTo(0, 0), {box}.scrollLeft = 10_000, {box}.dispatchEvent(new Event('scroll'))")
    assert not page.value(fades)
    wide = chromium.open(report_page, width=DESKTOP)
    assert wide.value(f"{box}.scrollWidth <= {box}.clientWidth")
    assert not wide.value(fades)


def test_a_column_sorts_its_table(chromium, report_page):
    page = chromium.open(report_page)
    order = (
        "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[2].dataset.sort)"
        ".filter(Boolean).map(Number)"  # an arm that is no retention measurement has no number
    )
    click = "document.querySelectorAll('table.sortable th button')[2].click()"
    page.value(click)
    rising = page.value(order)
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]
    page.value(click)
    assert page.value(order) == rising[::-1]


def test_folded_tables_are_printed(chromium, report_page):
    page = chromium.open(report_page)
    assert page.value("document.querySelectorAll('details:not([open])').length") > 5
    page.value("dispatchEvent(new Event('beforeprint'))")
    assert page.value("document.querySelectorAll('details:not([open])').length") == 0
    page.value("dispatchEvent(new Event('afterprint'))")
    assert page.value("document.querySelectorAll('details:not([open])').length") > 5


def test_the_page_is_whole_without_script(chromium, report_page):
    page = chromium.open(report_page, script=False)
    assert page.errors == []
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.value("document.querySelectorAll('table.sortable button').length") == 0
    assert page.value("document.querySelector('table.sortable').getBoundingClientRect().height") > 100


BROKEN = {
    "thrown": ("<script>nothing()</script>", "nothing is not defined"),
    "logged": ("<script>console.error('a defect')</script>", "a defect"),
    "refused": (
        "<meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\"><script>1</script>",
        "Content Security Policy",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_of_a_broken_page_are_seen(chromium, tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "broken.html").write_text(f"<!DOCTYPE html><title>broken</title>{content}")
    errors = chromium.open(tmp_path / "broken.html").errors
    assert len(errors) == 1
    assert message in errors[0]


def test_requests_and_wide_content_of_a_bad_page_are_seen(chromium, tmp_path):
    content = "<img src='other.png'><p style='width: 800px'>wide</p>"
    viewport = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html>{viewport}<title>bad</title>{content}")
    page = chromium.open(tmp_path / "bad.html", width=PHONE)
    assert [request.rpartition("/")[2] for request in page.requests] == ["other.png"]
    assert page.value("document.documentElement.scrollWidth") > PHONE
