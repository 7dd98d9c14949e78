"""`safe container`, in front of a fake Apptainer: what it is given, what is kept of it, and how it fails."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from containers.cli import container
from containers.definition import parse_definition
from containers.spec import DebootstrapBase, DockerBase
from safe_train.cli import safe

MANIFEST = "/a file 0644 -\n/b directory 0755 -\n"
FAKE = """\
#!/bin/bash
folder={folder}
printf '%s\\n' "$*" >>"$folder/calls"
case $* in
  build*)
    [ ! -e "$folder/fail" ] || exit "$(cat "$folder/fail")"
    cp "${{@: -1}}" "$folder/definition"
    find . -type f -o -type l | sort >"$folder/staged"
    for word; do case $word in *:/mnt) cp -r "${{word%:/mnt}}" "$folder/lent";; esac; done
    echo image >"${{@: -2:1}}" ;;
  *exec*) cat "$folder/manifest-$(grep -c exec "$folder/calls")" 2>/dev/null || cat "$folder/manifest" ;;
  inspect*) cat "$folder/labels" ;;
esac
"""


class Apptainer:
    """A fake program on PATH, and what it has seen."""

    def __init__(self, folder):
        self.folder = folder
        program = folder / "bin" / "apptainer"
        program.parent.mkdir()
        program.write_text(FAKE.format(folder=folder))
        program.chmod(0o755)
        self.contain(MANIFEST)

    def contain(self, manifest, label=None):
        (self.folder / "manifest").write_text(manifest)
        digest = label or hashlib.sha256(manifest.encode()).hexdigest()
        attributes = {"labels": {"org.safe.manifest": digest}}
        (self.folder / "labels").write_text(json.dumps({"data": {"attributes": attributes}}))

    def seen(self, name):
        return (self.folder / name).read_text()


@pytest.fixture
def apptainer(tmp_path, monkeypatch):
    fake = Apptainer(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return fake


def invoke(*arguments):
    return CliRunner().invoke(container, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_build_writes_the_image_and_its_manifest(apptainer, tmp_path):
    output = tmp_path / "images" / "safe.sif"
    result = invoke("build", "--output", output)
    assert result.exit_code == 0, result.output
    assert output.read_text() == "image\n"
    assert output.with_suffix(".manifest").read_text() == MANIFEST
    assert sorted(path.name for path in output.parent.iterdir()) == ["safe.manifest", "safe.sif"]
    spec = parse_definition(tmp_path / "definition")
    assert spec.base == DockerBase(image="debian:trixie")


def test_only_files_of_the_project_are_copied_into_the_image(apptainer, tmp_path):
    invoke("build", "--output", tmp_path / "safe.sif")
    staged = apptainer.seen("staged").splitlines()
    for name in ("./pyproject.toml", "./requirements/lock.txt", "./safe_train/cli/train.py", "./configs/lookup.py"):
        assert name in staged
    assert "./safe_train/configs" in staged  # the link
    assert not [name for name in staged if "__pycache__" in name or name.endswith((".sif", ".pyc"))]


def test_the_checkout_s_own_commands_run_beside_another_package_of_that_name(tmp_path):
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / "__init__.py").write_text("raise RuntimeError('another project')\n")
    command = [sys.executable, "-c", "from safe_train.cli import safe; safe()", "container", "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "manifest" in done.stdout


def test_an_installed_package_asks_for_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr("safe_train.cli.container.ROOT", tmp_path)
    result = CliRunner().invoke(safe, ["container", "build"], catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: safe container: expected a checkout")
    assert len(result.stderr.splitlines()) == 1


def test_what_the_machine_lends_is_bound_for_the_build(apptainer, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    result = invoke(
        "build",
        "--output",
        tmp_path / "safe.sif",
        "--ca-bundle",
        bundle,
        "--wheelhouse",
        wheels,
        "--no-test",
        "--fakeroot",
    )
    assert result.exit_code == 0, result.output
    call = apptainer.seen("calls").splitlines()[0]
    assert f"--bind {wheels}:/media" in call
    assert "--notest" in call
    assert "--fakeroot" in call
    assert "-comp zstd" in call
    assert (tmp_path / "lent" / "ca.pem").read_text() == "certificates"
    assert "pip_options='--no-index --find-links /media'" in apptainer.seen("definition")


def test_the_mirror_of_a_build_without_a_registry(apptainer, tmp_path):
    result = invoke(
        "build", "--output", tmp_path / "a.sif", "--bootstrap", "debootstrap", "--mirror", "http://m.example/d"
    )
    assert result.exit_code == 0, result.output
    base = parse_definition(tmp_path / "definition").base
    assert base == DebootstrapBase(suite="trixie", mirror="http://m.example/d", include=("ca-certificates",))


@pytest.mark.parametrize("code", [1, 255])
def test_the_exit_code_of_apptainer_is_kept_and_the_old_image_stays(apptainer, tmp_path, code):
    (tmp_path / "fail").write_text(str(code))
    output = tmp_path / "images" / "safe.sif"
    output.parent.mkdir()
    output.write_text("old")
    assert invoke("build", "--output", output).exit_code == code
    assert [path.read_text() for path in output.parent.iterdir()] == ["old"]


def test_contents_that_are_not_those_of_the_label_are_an_error(apptainer, tmp_path):
    (tmp_path / "safe.sif").touch()
    assert invoke("manifest", tmp_path / "safe.sif").stdout == MANIFEST
    apptainer.contain(MANIFEST, label="0" * 64)
    result = invoke("manifest", tmp_path / "safe.sif")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected contents of the manifest 000" in result.stderr


def test_two_builds_with_the_same_contents(apptainer, tmp_path):
    result = invoke("verify", "--folder", tmp_path / "two")
    assert (result.exit_code, result.stdout) == (0, "two builds, 2 paths each: identical\n")
    assert len([call for call in apptainer.seen("calls").splitlines() if call.startswith("build")]) == 2


def test_two_builds_that_differ(apptainer, tmp_path, monkeypatch):
    """The second manifest has another digest; the label is not what this is about."""
    changed = MANIFEST.replace("0644", "0600")
    (tmp_path / "manifest-2").write_text(changed)
    monkeypatch.setattr("containers.cli._checked_manifest", _unchecked_manifest)
    result = invoke("verify", "--folder", tmp_path / "two")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["+/a file 0600 -", "-/a file 0644 -", "the two builds differ in 2 lines"]


def _unchecked_manifest(image):
    from containers.apptainer import read_manifest

    return read_manifest(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", "no.sif"), "IMAGE no.sif: expected a path that exists"),
        (("build", "--output", "x.sif", "--wheelhouse", "no"), "--wheelhouse no: expected a path that exists"),
        (("build", "--output", "x.sif", "--mirror", "http://m.example"), "--mirror: expected --bootstrap debootstrap"),
        (("bild",), "did you mean 'build'?"),
    ],
)
def test_bad_input_is_one_line(apptainer, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_machine_without_apptainer_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if any((tmp_path / name).exists() for name in ("/usr/bin/apptainer", "/usr/bin/singularity")):
        pytest.skip("Apptainer is installed where every program is")
    (tmp_path / "x.sif").touch()
    result = invoke("test", tmp_path / "x.sif")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "PATH: expected apptainer" in result.stderr
