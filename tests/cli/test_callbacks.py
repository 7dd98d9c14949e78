"""How a run is watched and stopped."""

import os
import signal

import pytest

from safe_train.cli.callbacks import SIGNALS, StopRequest, watching
from safe_train.errors import StoppedError


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_is_answered_at_once(number, capfd):
    stop = StopRequest()
    assert not stop()
    with stop.listening():
        os.kill(os.getpid(), number)
        assert "stopping after this step or batch" in capfd.readouterr().err
    assert stop()
    assert stop.signal is number


def test_under_nohup_the_terminal_may_go():
    stop, before = StopRequest(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not stop()


def test_an_error_by_which_a_run_stops_knows_who_asked():
    def stopped():
        with StopRequest().listening():
            os.kill(os.getpid(), signal.SIGUSR1)
            raise StoppedError("stopped")

    with pytest.raises(StoppedError) as caught:
        stopped()
    assert caught.value.signal is signal.SIGUSR1


def test_a_file_asks_to_stop(monkeypatch, tmp_path):
    file = tmp_path / "stop"
    without = StopRequest()
    monkeypatch.setenv("SAFE_STOP_FILE", str(file))
    stop = StopRequest()
    assert not stop()
    file.touch()
    assert stop()
    assert stop.signal is None
    assert not without()


def test_a_second_sigint_does_not_wait():
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest().listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_log_file_gets_plain_lines_ten_steps_in_all(capsys):
    stop = StopRequest()
    with watching(stop) as callbacks:
        callbacks.stage("training")
        for step in range(1, 101):
            callbacks.step(step, 100, {"audio_loss": 1 / 3, "unshown": 1.0} if step % 2 == 0 else {})
        assert callbacks.should_stop() is False
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 10
    assert lines[0].endswith(" s] training")
    assert lines[-1].endswith(" s] step 100/100: audio_loss 0.3333")
    assert not any("\x1b" in line or "\r" in line for line in lines)
