"""The shim for Slurm's commands, in front of fake clients: it works, or tells the one line to run with exit code 78."""

import os
import shutil
import socket
import subprocess

import pytest

from containers.image import PARTS

CONTAINER = {
    "APPTAINER_CONTAINER": "/images/safe.sif",
    "APPTAINER_NAME": "safe.sif",
    "APPTAINER_BIND": "/nowhere",
    "SINGULARITY_BIND": "/nowhere",
    "APPTAINER_CACHEDIR": "/scratch/cache",
    "LD_LIBRARY_PATH": "/.singularity.d/libs",
    "PROMPT_COMMAND": 'PS1="Apptainer> "; unset PROMPT_COMMAND',
    "SAFE_IMAGE_SET": "TRITON_CACHE_DIR",
    "TRITON_CACHE_DIR": "/tmp/safe-0/triton",
    "VARIANT_ORDER": "no_retention full_retention",
    "SAFE_BIND": "/data",
    "HOST_VARIABLE": "kept",
}


class Site:
    """A folder with shims, fake clients, a slurm.conf and munge's socket."""

    def __init__(self, folder):
        self.folder = folder
        self.configuration = folder / "etc" / "slurm.conf"
        self.socket = folder / "munge" / "munge.socket.2"
        for name in ("shims", "clients", "host", "etc", "munge", "work"):
            (folder / name).mkdir()
        for command in ("sbatch", "srun", "squeue", "scancel"):
            (folder / "shims" / command).symlink_to(PARTS / "slurm_shim.sh")
        self.client("exit 0")
        self.configure("")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        (folder / "work" / "job.sh").write_text("#!/bin/bash\n")

    def client(self, body):
        for command in ("sbatch", "srun", "squeue", "scancel"):
            path = self.folder / "clients" / command
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)

    def configure(self, text):
        self.configuration.write_text(f"AuthInfo=socket={self.socket},ttl=60\n{text}\n")

    def run(self, command, *arguments, **changes):
        variables = CONTAINER | {
            "PATH": f"{self.folder / 'shims'}:{os.environ['PATH']}",
            "USER_PATH": f"{self.folder / 'host'}:/usr/bin:/bin",
            "SAFE_SLURM_BIN": str(self.folder / "clients"),
            "SLURM_CONF": str(self.configuration),
        }
        variables = {name: value for name, value in (variables | changes).items() if value is not None}
        return subprocess.run(
            [str(self.folder / "shims" / command), *arguments],
            cwd=self.folder / "work",
            env=variables,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def site(tmp_path_factory):
    # The path of a socket holds 107 bytes, and pytest's own folders are long.
    folder = tmp_path_factory.mktemp("s")
    made = Site(folder)
    yield made
    made.listener.close()


def told_line(result):
    """The line to run: the last one."""
    assert result.returncode == 78, result
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["sbatch", "srun", "squeue", "scancel"])
@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_client_gets_its_arguments_and_its_exit_code_is_kept(site, command, code):
    site.client(f'printf "%s|" "${{0##*/}}" "$@"; echo warning >&2; exit {code}')
    result = site.run(command, "--wrap", "two words", "job.sh")
    assert result.returncode == code
    assert result.stdout == f"{command}|--wrap|two words|job.sh|"
    assert result.stderr == "warning\n"


@pytest.mark.parametrize("command", ["sbatch", "srun", "squeue", "scancel"])
def test_without_binds_the_line_names_configuration_and_munge(site, command):
    site.configuration.unlink()
    line = told_line(site.run(command, "job.sh", SLURM_CONF=None))
    assert line == 'export APPTAINER_BIND="${APPTAINER_BIND:+$APPTAINER_BIND,}/etc/slurm,/run/munge"'


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "/etc/slurm,/run/munge"), ("/data,/scratch", "/data,/scratch,/etc/slurm,/run/munge")],
)
def test_the_line_pasted_into_a_shell_sets_the_binds_and_keeps_those_of_the_user(site, before, after):
    site.configuration.unlink()
    line = told_line(site.run("sbatch", "job.sh", SLURM_CONF=None))
    variables = {"PATH": os.environ["PATH"]} | ({"APPTAINER_BIND": before} if before else {})
    pasted = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$APPTAINER_BIND"'],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert pasted.stdout == after


def test_a_configuration_elsewhere_is_bound_from_there(site):
    site.configuration.unlink()
    assert f",}}{site.configuration.parent},/run/munge" in told_line(site.run("sbatch", "job.sh"))


def test_a_configuration_without_munge_asks_for_the_folder_of_its_socket(site):
    site.socket.unlink()
    assert told_line(site.run("sbatch", "job.sh")).endswith(f',}}{site.socket.parent}"')


def test_other_authentication_is_submitted_from_the_host(site):
    site.configure("authtype = auth/slurm  # no munge here")
    result = site.run("sbatch", "--time=1:00", "my job.sh")
    assert told_line(result) == "SAFE_IMAGE=/images/safe.sif sbatch --time=1:00 my\\ job.sh"
    assert "auth/slurm" in result.stderr


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("sbatch: error: slurm_receive_msg: Incompatible versions of client and server code", "SAFE_IMAGE="),
        ("sbatch: error: Protocol version has changed, re-link your code", "SAFE_IMAGE="),
        ('sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2"', "export APPTAINER_BIND="),
        (
            "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: DNS SRV lookup failed",
            "export APPTAINER_BIND=",
        ),
        ("sbatch: error: Couldn't find the specified plugin name for cli_filter/lua", "SAFE_IMAGE="),
        ("sbatch: error: spank: Unable to find plugin /opt/site/spank.so", "SAFE_IMAGE="),
    ],
)
def test_what_the_client_says_is_explained(site, message, line):
    site.client(f"cat >&2 <<'MESSAGE'\n{message}\nMESSAGE\nexit 1")
    result = site.run("sbatch", "job.sh")
    assert message in result.stderr
    assert told_line(result).startswith(line)


def test_an_error_of_the_user_is_not_explained_away(site):
    site.client("echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    result = site.run("sbatch", "--partition=nowhere", "job.sh")
    assert (result.returncode, result.stderr) == (1, "sbatch: error: invalid partition specified: nowhere\n")


def test_a_script_outside_of_the_mounts(site):
    result = site.run("sbatch", "--time=1:00", "scripts/overfitting_test.sh")
    assert told_line(result) == 'export APPTAINER_BIND="${APPTAINER_BIND:+$APPTAINER_BIND,}$(pwd -P)"'
    assert "scripts/overfitting_test.sh is not visible" in result.stderr


def test_nothing_of_the_container_gets_into_the_job(site):
    site.client("env")
    got = dict(line.split("=", 1) for line in site.run("sbatch", "job.sh").stdout.splitlines())
    leaked = [name for name in got if name.startswith(("APPTAINER", "SINGULARITY"))]
    assert leaked == ["APPTAINER_CACHEDIR"]
    for name in ("LD_LIBRARY_PATH", "PROMPT_COMMAND", "USER_PATH", "TRITON_CACHE_DIR", "SAFE_IMAGE_SET"):
        assert name not in got
    assert got["PATH"] == f"{site.folder / 'host'}:/usr/bin:/bin"
    for name in ("VARIANT_ORDER", "SAFE_BIND", "HOST_VARIABLE"):
        assert got[name] == CONTAINER[name]


def test_without_the_shim_the_container_leaks(site):
    """The negative control: the same client called directly sees the container's variables."""
    site.client("env")
    seen = subprocess.run(
        [str(site.folder / "clients" / "sbatch")], env=CONTAINER, capture_output=True, text=True, check=True
    ).stdout
    assert "APPTAINER_BIND=/nowhere" in seen
    assert "LD_LIBRARY_PATH=/.singularity.d/libs" in seen


def test_a_library_path_of_the_user_stays(site):
    site.client('printf %s "$LD_LIBRARY_PATH"')
    assert site.run("srun", "true", LD_LIBRARY_PATH="/opt/site/lib").stdout == "/opt/site/lib"


@pytest.mark.parametrize(("given", "expected"), [(None, "/images/safe.sif"), ("other.sif", "other.sif")])
def test_the_job_runs_in_the_image_that_submitted_it(site, given, expected):
    site.client('printf %s "$SAFE_IMAGE"')
    assert site.run("sbatch", "job.sh", SAFE_IMAGE=given).stdout == expected


def test_an_image_without_the_client_says_so(site):
    shutil.rmtree(site.folder / "clients")
    result = site.run("sbatch", "job.sh")
    assert result.returncode == 78
    assert "SAFE_SLURM_BIN" in result.stderr


def test_help_needs_no_cluster(site):
    site.configuration.unlink()
    site.client("echo usage")
    assert site.run("sbatch", "--help").stdout == "usage\n"
