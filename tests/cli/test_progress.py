"""What a person sees of a run: in a terminal emulator of two sizes, without colors, in a dumb terminal."""

import re

import pytest

from tests.terminal import terminal

METRICS = '{"audio_loss": 1 / 3, "kl": 0.0123456, "ewc": 1e-5, "null_space_removed": 0.25, "unshown": 1.0}'
WORDS = "of two checkpoints the newer one is damaged and the older one is used, " * 3
PROGRAM = f"""
import logging, sys
from safe_train.cli.progress import display
logging.basicConfig(level=logging.INFO, format="%(message)s")
with display() as shown:
    shown.stage("training")
    shown.step(30, 60, {METRICS})
    logging.getLogger("safe_train").warning({WORDS!r})
    pause()
    shown.stage("reading clips")
    pause()
    shown.stage("VL, worst_of_4")
    shown.rows(500, 2000)
    logging.getLogger("safe_train").info("[bold]no markup[/bold]")
    pause()
print("the closing table")
"""
SIZES = [(80, 24), (200, 50)]


def bar_of(lines):
    (line,) = [line for line in lines if "━" in line or "╸" in line]
    return line


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_bar_count_and_time_have_room_beside_the_metrics(columns, rows):
    with terminal(PROGRAM, columns, rows) as shown:
        lines = shown.until(lambda lines: any("30/60" in line for line in lines) and "audio_loss" in lines[-1])
        bar = bar_of(lines)
        assert re.fullmatch(r"training [━╸╺ ]{30,} 30/60 (-:--:--|\d:\d\d:\d\d)", bar)
        assert len(bar) == columns
        assert lines[-1] == "audio_loss 0.3333, kl 0.01235, ewc 1e-05, null_space_removed 0.25"


def test_metrics_that_do_not_fit_stay_on_one_line():
    with terminal(PROGRAM, 50, 24) as shown:
        lines = shown.until(lambda lines: any("30/60" in line for line in lines) and "audio_loss" in lines[-1])
        assert lines[-1] == "audio_loss 0.3333, kl 0.01235, ewc 1e-05, null_sp…"


def test_a_stage_that_begins_has_no_length_yet():
    """And not that of the stage before."""
    with terminal(PROGRAM, 80, 24) as shown:
        shown.until(lambda lines: any("30/60" in line for line in lines))
        shown.go_on()
        lines = shown.until(lambda lines: any("reading clips" in line for line in lines))
        assert re.fullmatch(r"reading clips .* 0/\?( -:--:--)?", bar_of(lines))


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_log_lines_stand_above_the_bar_whole(columns, rows):
    with terminal(PROGRAM, columns, rows) as shown:
        lines = shown.until(lambda lines: any("30/60" in line for line in lines) and "audio_loss" in lines[-1])
        above = lines[: lines.index(bar_of(lines))]
        assert " ".join(" ".join(above).split()) == WORDS.strip()
        assert all(set(line.split()) <= set(WORDS.split()) for line in above)  # no word is broken
        shown.go_on(2)
        lines = shown.until(lambda lines: any("500/2000" in line for line in lines))
        assert "[bold]no markup[/bold]" in lines


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_another_stage_has_a_bar_of_its_own_and_nothing_of_it_stays(columns, rows):
    with terminal(PROGRAM, columns, rows) as shown:
        shown.go_on(2)
        lines = shown.until(lambda lines: any("500/2000" in line for line in lines))
        assert bar_of(lines).startswith("VL, worst_of_4 ")
        assert not [line for line in lines if "30/60" in line or "audio_loss" in line]
        shown.go_on()
        lines = shown.at_the_end()
        assert lines[-1] == "the closing table"
        assert not [line for line in lines if "━" in line or "500/2000" in line]


STOPPED = """
import os, signal
from safe_train.cli.callbacks import StopRequest, watching
stop = StopRequest()
with stop.listening(), watching(stop) as callbacks:
    callbacks.stage("VL, noise")
    callbacks.rows(1, 2)
    os.kill(os.getpid(), signal.SIGINT)
    pause()
"""


def test_who_asks_to_stop_sees_that_it_was_heard_beside_the_bar():
    with terminal(STOPPED, 80, 24) as shown:
        lines = shown.until(lambda lines: any("stopping after" in line for line in lines))
        assert lines[-1] == "stopping after this step or batch; a second Ctrl-C does not wait"
        assert "1/2" in bar_of(lines)


def test_without_colors_there_is_a_bar():
    with terminal(PROGRAM, 80, 24, NO_COLOR="1") as shown:
        assert "30/60" in bar_of(shown.until(lambda lines: any("30/60" in line for line in lines)))


def test_a_terminal_that_cannot_move_the_cursor_gets_lines():
    with terminal(PROGRAM, 80, 24, TERM="dumb") as shown:
        shown.go_on(3)
        lines = shown.at_the_end()
    assert re.fullmatch(r"\[ +\d+\.\d s\] training", lines[0])
    assert re.fullmatch(r"\[ +\d+\.\d s\] step 30/60: audio_loss 0\.3333, kl .*", lines[1])
    assert [line for line in lines if "VL, worst_of_4" in line]
    assert not [line for line in lines if "━" in line]


BROKEN = """
import logging, sys
from rich.console import Console
from rich.progress import Progress
logging.basicConfig(level=logging.INFO, format="%(message)s")
with Progress(console=Console(stderr=True)) as progress:
    task = progress.add_task("training", total=60, completed=30)
    progress.refresh()
    logging.getLogger("safe_train").warning("a warning")
    pause()
"""


def test_the_emulator_shows_a_log_line_that_is_glued_to_a_bar():
    """Negative control: a handler that writes to the terminal itself, as logging's own does."""
    with terminal(BROKEN, 80, 24) as shown:
        lines = shown.until(lambda lines: any("a warning" in line for line in lines))
    assert any("━" in line and "a warning" in line for line in lines)
