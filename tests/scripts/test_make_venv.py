"""What sets a checkout up: one shared environment for each lock file and Python, a .venv that editors understand."""

import fcntl
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/make_venv.py"


@pytest.fixture
def make_venv(tmp_path, monkeypatch):
    """The script on a checkout of its own; commands are written down, and environments are made of empty files."""
    spec = importlib.util.spec_from_file_location("make_venv", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkout = tmp_path / "checkout"
    (checkout / "requirements").mkdir(parents=True)
    (checkout / "requirements/lock.txt").write_text("torch==1 --hash=sha256:0\n")
    (checkout / "pyproject.toml").write_text("[project]\n")
    module.commands = []

    def run(*command):
        words = [str(word) for word in command]
        module.commands.append(words)
        if words[1:3] == ["-m", "venv"]:
            (Path(words[-1]) / "bin").mkdir(parents=True)
            (Path(words[-1]) / "bin/python").touch()

    def site_packages(environment):
        (environment / "site-packages").mkdir(exist_ok=True)
        return environment / "site-packages"

    for name, value in {
        "ROOT": checkout, "LOCK": checkout / "requirements/lock.txt", "VENV": checkout / ".venv",
        "run": run, "site_packages": site_packages,
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path / "cache"))
    return module


def kinds(module):
    """What was run since the last look: environments made, packages installed."""
    found = [
        "venv" if words[1:3] == ["-m", "venv"] else "project" if "--editable" in words else "dependencies"
        for words in module.commands
    ]
    module.commands.clear()
    return found


ALL = ["venv", "dependencies", "venv", "project"]


def test_what_is_there_is_not_made_again(make_venv):
    make_venv.main()
    assert kinds(make_venv) == ALL
    make_venv.main()
    assert kinds(make_venv) == []


def test_a_set_up_that_was_cut_off_is_begun_again_and_two_wait_for_each_other(make_venv, monkeypatch, tmp_path):
    run = make_venv.run

    def cut_off(*command):
        run(*command)
        if "--require-hashes" in command:
            (lock,) = (tmp_path / "cache").glob("*.lock")
            with lock.open("w") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(make_venv, "run", cut_off)
        with pytest.raises(KeyboardInterrupt):
            make_venv.main()
    assert kinds(make_venv) == ALL[:2]
    make_venv.main()
    assert kinds(make_venv) == ALL


def test_what_has_changed_is(make_venv, tmp_path):
    make_venv.main()
    kinds(make_venv)
    (make_venv.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    make_venv.main()
    assert kinds(make_venv) == ["project"]
    make_venv.LOCK.write_text("torch==2 --hash=sha256:0\n")
    make_venv.main()
    assert kinds(make_venv) == ALL
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2  # the earlier one stays


def test_an_environment_that_was_cut_off_is_made_anew(make_venv, monkeypatch):
    def stopped(*command):
        if "--require-hashes" in command:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(make_venv, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            make_venv.main()
    make_venv.main()
    assert kinds(make_venv) == ALL


def test_hashes_are_required_and_the_checkout_stands_in_a_plain_path(make_venv):
    make_venv.main()
    _, dependencies, _, project = make_venv.commands
    assert dependencies[-3:] == ["--require-hashes", "-r", str(make_venv.LOCK)]
    assert project[project.index("--config-settings") + 1] == "editable_mode=compat"  # else an import hook


def test_an_active_environment_changes_nothing(make_venv, monkeypatch):
    """``python3`` is then one inside of .venv, which may have to be made anew."""
    make_venv.main()
    kinds(make_venv)
    monkeypatch.setattr(sys, "prefix", str(make_venv.VENV))
    make_venv.main()
    assert kinds(make_venv) == []
    assert Path(make_venv.PYTHON).is_relative_to(sys.base_prefix)


def test_commands_run_this_checkouts_python(make_venv):
    shared = make_venv.shared_environment()
    (shared / "bin/pytest").write_text(f"#!{shared}/bin/python3.11\nimport pytest\n")
    (shared / "bin/ninja").write_bytes(b"\x7fELF")
    make_venv.make_venv(shared)
    assert (make_venv.VENV / "bin/pytest").read_text().splitlines()[1] == (
        f'exec "{make_venv.VENV}/bin/python" "{shared}/bin/pytest" "$@"'
    )
    assert (make_venv.VENV / "bin/ninja").resolve() == (shared / "bin/ninja").resolve()
    assert (make_venv.VENV / "site-packages/dependencies.pth").read_text() == f"{shared}/site-packages\n"


def test_an_older_python_is_one_line(make_venv, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    with pytest.raises(
        SystemExit, match=r"^make_venv: expected Python 3\.11 or later, got 3\.9\.18; name another with "
    ):
        make_venv.main()


def test_a_command_that_fails_ends_it():
    spec = importlib.util.spec_from_file_location("make_venv_of_its_own", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit, match=r"^make_venv: .* -c raise SystemExit\(3\) \.\.\. failed$"):
        module.run(sys.executable, "-c", "raise SystemExit(3)")
