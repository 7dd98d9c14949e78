"""The mirror is the one of the machine's apt, in both formats of its configuration."""

import pytest

from containers.mirror import host_mirror
from safe_train.errors import InputError

STANZAS = """\
Types: deb
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main

# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: trixie trixie-updates
Components: main contrib
"""


def apt_folder(tmp_path, **files):
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name.replace("__", "/").replace("_", ".")).write_text(text)
    return tmp_path


def test_stanzas(tmp_path):
    apt = apt_folder(tmp_path)
    (apt / "sources.list.d" / "debian.sources").write_text(STANZAS)
    assert host_mirror(apt) == "http://mirror.example/debian"


@pytest.mark.parametrize("options", ["", "[arch=amd64 signed-by=/key.gpg] "])
def test_lines(tmp_path, options):
    lines = ("# deb http://commented.example/debian trixie main", "deb http://tool.example/apt trixie main")
    (apt_folder(tmp_path) / "sources.list").write_text(
        "\n".join([*lines, f"deb {options}http://mirror.example/debian trixie main  # the mirror"])
    )
    assert host_mirror(tmp_path) == "http://mirror.example/debian"


def test_a_machine_without_debian_is_told_the_option(tmp_path):
    (apt_folder(tmp_path) / "sources.list").write_text("deb http://mirror.example/ubuntu noble main\n")
    with pytest.raises(InputError, match="--mirror"):
        host_mirror(tmp_path)
