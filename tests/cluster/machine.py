"""A Slurm and Apptainer installation in a folder: made once, kept outside of the checkout, entered through namespaces.

    python -m tests.cluster.machine    # makes what is missing: the Debian root, then the image in it

Both lie under ``${SAFE_CACHE:-~/.cache/safe}``, named after the files that define them. Needs root on a Linux machine
with apt; no daemon of the machine is touched, and nothing is installed on it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from containers.mirror import host_mirror
from safe_train.errors import InputError

PROJECT = Path(__file__).parents[2]
HERE = Path(__file__).parent
_NEEDED = ("apt-get", "dpkg-deb", "unshare", "nsenter", "setpriv", "pivot_root", "git")
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--net", "--ipc", "--propagation", "private")
_USER = 1000
_ROOM = 25 * 2**30
"""Bytes that the root, the wheels, the unpacked image and the packed one take together, with some to spare."""


def missing() -> str | None:
    """Why this machine cannot run the cluster, or None."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "needs root on Linux: it mounts file systems and makes namespaces"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if not Path("/dev/fuse").exists() or "overlay" not in Path("/proc/filesystems").read_text():
        return "needs /dev/fuse and overlay file systems"
    if subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True).returncode != 0:
        return "may not make namespaces"
    try:
        host_mirror()
    except InputError as error:
        return str(error)
    return _too_little_room(Machine())


def _too_little_room(machine: Machine) -> str | None:
    """Why the image cannot be made, or None if it can or is there."""
    if machine.image.exists():
        return None
    free = min(shutil.disk_usage(_existing(folder)).free for folder in (machine.cache, Path("/var/tmp")))
    return f"needs {_ROOM >> 30} GiB of disk to make the image, {free >> 30} are free" if free < _ROOM else None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


@dataclass(frozen=True)
class Machine:
    """Where the parts of the installation lie.

    Attributes:
        cache: folder of everything that is kept.
    """

    cache: Path = field(default_factory=lambda: _cache())

    @property
    def root(self) -> Path:
        """The Debian system."""
        return self.cache / f"cluster-{_key([HERE / 'make_root.sh'])}" / "root"

    @property
    def image(self) -> Path:
        """The image; it holds the project as it was when the image's own files last changed."""
        own = PROJECT / "containers"
        files = [*sorted((own / "parts").iterdir()), own / "safe.def", own / "manifest.py"]
        files.append(PROJECT / "requirements" / "lock.txt")
        return self.cache / f"image-{_key(files)}" / "safe.sif"

    def make(self) -> None:
        """Makes what is missing; a part is there only when it is complete.

        Raises:
            subprocess.CalledProcessError: a step failed; it has said why.
        """
        for path, make in ((self.root, self._make_root), (self.image, self._make_image)):
            if not path.exists():
                print(f"making {path}", flush=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)

    def _make_root(self, root: Path) -> None:
        partial = root.with_name("partial")
        subprocess.run(["bash", str(HERE / "make_root.sh"), str(partial), host_mirror()], check=True)
        partial.rename(root)

    def _make_image(self, image: Path) -> None:
        # Not in the cache: that may be in root's home, over which Apptainer mounts the user's own.
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="safe-image-") as scratch:
            Path(scratch).chmod(0o755)
            output = Path(scratch, "safe.sif")
            self.safe_container("build", "--bootstrap", "debootstrap", "--output", str(output), scratch=Path(scratch))
            shutil.move(output.with_suffix(".manifest"), image.with_suffix(".manifest"))
            partial = shutil.move(output, image.with_name("partial"))
            Path(partial).rename(image)

    def safe_container(self, *arguments: str, scratch: Path) -> None:
        """Runs ``safe container`` on this machine with the Apptainer of the root.

        Args:
            arguments: what follows ``safe container``.
            scratch: folder for temporary files and images; has room for a few copies of the image.
        """
        os.chown(scratch, _USER, _USER)
        environment = os.environ | {
            "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "TMPDIR": str(scratch),
            "SAFE_CLUSTER_ROOT": str(self.root),
            "SAFE_CLUSTER_BINDS": str(scratch),
        }
        command = [sys.executable, "-c", "from safe_train.cli import safe; safe()", "container", *arguments]
        subprocess.run([*command, "--fakeroot"], cwd=PROJECT, env=environment, check=True)


class Cluster:
    """The running installation: a controller and two nodes in namespaces of their own, without a network.

    Attributes:
        home: the user's home folder, as the machine outside sees it.
        project: a copy of the checkout in it.
    """

    def __init__(self, machine: Machine, scratch: Path) -> None:
        self.home = scratch / "home"
        self.project = self.home / "safe"
        copy_checkout(self.project)
        (self.project / "containers" / "safe.sif").symlink_to("/images/safe.sif")
        _give(self.home)
        start = scratch / "start"
        start.mkdir()
        shutil.copy(HERE / "start.sh", start)
        binds = {self.home: "/home/dev", machine.image.parent: "/images", start: "/start"}
        enter = ["unshare", *_NAMESPACES, "bash", str(HERE / "enter.sh"), str(machine.root), str(scratch)]
        self._process = subprocess.Popen(
            [*enter, "bash", "/start/start.sh"],
            env=os.environ | {"BINDS": "\n".join(f"{source}:{target}" for source, target in binds.items())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait_until_ready()

    def run(
        self, command: str, *, variables: Mapping[str, str] | None = None, user: int = _USER, seconds: int = 240
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell command in the project's folder, as an ordinary user on the login node."""
        given = {
            "HOME": "/home/dev",
            "USER": "dev",
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin",
        }
        words = [f"{name}={value}" for name, value in (given | dict(variables or {})).items()]
        enter = ["nsenter", "--target", str(self._inside), "--all", "--root", "--"]
        become = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "env", "-i", *words]
        return subprocess.run(
            [*enter, *become, "bash", "-c", f"cd /home/dev/safe\n{command}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def stop(self) -> None:
        """Stops the daemons; whatever they left behind ends with the process namespace."""
        self._process.communicate(timeout=60)

    def _wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if line == "ready\n":
                break
        else:
            raise RuntimeError(f"the cluster did not start: {''.join(lines)}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._inside = int(children.split()[0])


def copy_checkout(target: Path) -> None:
    """Copies what git tracks, and new files that it does not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).is_file() or (PROJECT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name, follow_symlinks=False)


def _give(folder: Path) -> None:
    subprocess.run(["chown", "-R", f"{_USER}:{_USER}", str(folder)], check=True)


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SAFE_CACHE") or home / "safe").expanduser().absolute()


def _key(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    reason = missing()
    if reason is not None:
        print(f"no cluster on this machine: {reason}", file=sys.stderr)
    else:
        Machine().make()
