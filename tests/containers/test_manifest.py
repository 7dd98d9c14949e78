"""The manifest of an image: expected lines are written by hand, digests are those of sha256sum."""

import subprocess
import sys
from pathlib import Path

from containers import manifest

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1: SHA-256 of "abc"


def small_root(folder):
    (folder / "etc").mkdir(parents=True, mode=0o755)
    (folder / "etc" / "file").write_text("abc")
    (folder / "etc" / "file").chmod(0o640)
    (folder / "etc" / "a name").symlink_to("abc")
    (folder / ".singularity.d").mkdir()
    (folder / ".singularity.d" / "labels.json").write_text("the time of the build")
    (folder / "etc" / "resolv.conf").write_text("the host's")
    (folder / "etc").chmod(0o755)
    return folder


def test_lines_of_a_small_root(tmp_path):
    assert list(manifest.manifest_lines(small_root(tmp_path))) == [
        "/etc directory 0755 -",
        f"/etc/a\\x20name link 0777 {ABC}",
        f"/etc/file file 0640 {ABC}",
    ]


def test_the_file_alone_is_a_program(tmp_path):
    root = small_root(tmp_path / "root")
    command = [sys.executable, "-I", "-B", "-", str(root)]
    with Path(manifest.__file__).open() as source:
        done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(manifest.manifest_lines(root))


def test_changes_of_contents_mode_type_and_paths_are_seen(tmp_path):
    root = small_root(tmp_path)

    def listed():
        return "\n".join(manifest.manifest_lines(root))

    before = listed()
    assert manifest.differences(before, listed()) == []
    (root / "etc" / "file").write_text("abd")
    assert len(manifest.differences(before, listed())) == 2
    (root / "etc" / "file").write_text("abc")
    (root / "etc" / "file").chmod(0o644)
    assert [line[0] for line in manifest.differences(before, listed())] == ["-", "+"]
    (root / "etc" / "file").chmod(0o640)
    (root / "etc" / "new").touch()
    (added,) = manifest.differences(before, listed())
    assert added.startswith("+/etc/new file")


def test_what_apptainer_writes_or_mounts_does_not_count(tmp_path):
    root = small_root(tmp_path)
    before = list(manifest.manifest_lines(root))
    (root / ".singularity.d" / "labels.json").write_text("another time")
    (root / "etc" / "resolv.conf").write_text("another host's")
    assert list(manifest.manifest_lines(root)) == before
