"""The commands ``safe container build|test|manifest|verify``. Heavy imports happen inside them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from containers.manifest import differences
from safe_train.cli.errors import OneLineGroup, one_line_errors
from safe_train.errors import InputError

if TYPE_CHECKING:
    from containers.apptainer import BuildInputs
    from containers.image import BuildChoices

_SHOWN_DIFFERENCES = 20
_IMAGE = Path("containers/safe.sif")


@click.group("container", cls=OneLineGroup)
def container() -> None:
    """Builds, tests and compares the container image (Apptainer)."""


def _build_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option(
            "--bootstrap",
            type=click.Choice(["docker", "debootstrap"]),
            default="docker",
            show_default=True,
            help="From Debian's image in a registry, or from a Debian mirror.",
        ),
        click.option("--mirror", help="Debian mirror for debootstrap; by default the one in this machine's apt."),
        click.option("--lock", help="Other hashed requirements, for instance with another torch build."),
        click.option("--index-url", envvar="PIP_INDEX_URL", help="Package index; by default pip's own."),
        click.option("--wheelhouse", type=click.Path(path_type=Path), help="Install from this folder of wheels alone."),
        click.option(
            "--ca-bundle",
            type=click.Path(path_type=Path),
            envvar="SSL_CERT_FILE",
            help="Certificates for the downloads, on a network that inspects TLS; not kept in the image.",
        ),
        click.option("--test/--no-test", "run_test", default=True, help="Run %test at the end of the build."),
        click.option("--fakeroot", is_flag=True, default=None, help="Build in a user namespace; always, unless root."),
        click.option("--compression", help="Arguments for mksquashfs; by default zstd at level 3."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@container.command("build")
@click.option("--output", type=click.Path(path_type=Path), default=_IMAGE, show_default=True, help="Image to write.")
@_build_options
@one_line_errors
def build_command(output: Path, **options: Any) -> None:
    """Builds the image and writes the manifest of its contents beside it."""
    manifest = _build(output, options)
    output.with_suffix(".manifest").write_text(manifest, encoding="utf-8")
    click.echo(f"{output}: {output.stat().st_size / 2**30:.2f} GiB, {len(manifest.splitlines())} paths")


@container.command("test")
@click.argument("image", type=click.Path(path_type=Path), default=_IMAGE)
@one_line_errors
def test_command(image: Path) -> None:
    """Runs a kernel and two training steps in the image, on a GPU if there is one."""
    from containers.apptainer import test

    _keeping_exit_code(lambda: test(image))


@container.command("manifest")
@click.argument("image", type=click.Path(path_type=Path), default=_IMAGE)
@one_line_errors
def manifest_command(image: Path) -> None:
    """Prints the contents as lines "path type mode sha256", and checks them against the image's label."""
    click.echo(_keeping_exit_code(lambda: _checked_manifest(image)), nl=False)


@container.command("verify")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build"), help="Where the two images go.")
@_build_options
@one_line_errors
def verify_command(folder: Path, **options: Any) -> None:
    """Builds twice and compares the contents; exit code 1 where they differ."""
    first, second = (_build(folder / f"verify-{number}.sif", options) for number in (1, 2))
    found = differences(first, second)
    for line in found[:_SHOWN_DIFFERENCES]:
        click.echo(line)
    if found:
        click.echo(f"the two builds differ in {len(found)} lines")
        sys.exit(1)
    click.echo(f"two builds, {len(first.splitlines())} paths each: identical")


def _build(output: Path, options: dict[str, Any]) -> str:
    """Builds an image; returns its manifest."""
    from containers.apptainer import FAST_COMPRESSION, BuildOptions, build

    choices, inputs = _choices(options)
    how = BuildOptions(
        fakeroot=options["fakeroot"] or os.geteuid() != 0,
        test=options["run_test"],
        compression=options["compression"] or FAST_COMPRESSION,
    )
    _keeping_exit_code(lambda: build(output, choices, inputs, how))
    return _keeping_exit_code(lambda: _checked_manifest(output))


def _choices(options: dict[str, Any]) -> tuple[BuildChoices, BuildInputs]:
    try:
        from containers.image import DOCKER, LOCK, SUITE, BuildChoices
    except ModuleNotFoundError as error:
        hint = "install the project with its extra: pip install -e '.[containers]'"
        raise InputError("safe container", f"the package {error.name}", "none", hint) from error
    from containers.apptainer import BuildInputs, commit
    from containers.mirror import host_mirror
    from containers.spec import DebootstrapBase

    if options["mirror"] and options["bootstrap"] != "debootstrap":
        raise InputError("--mirror", "--bootstrap debootstrap with it", options["bootstrap"], "add or drop one of them")
    base = DOCKER
    if options["bootstrap"] == "debootstrap":
        mirror = options["mirror"] or host_mirror()
        base = DebootstrapBase(suite=SUITE, mirror=mirror, include=("ca-certificates",))
    choices = BuildChoices(
        base=base,
        lock=options["lock"] or LOCK,
        index_url=options["index_url"],
        offline=options["wheelhouse"] is not None,
        commit=commit(),
    )
    return choices, BuildInputs(certificates=options["ca_bundle"], wheelhouse=options["wheelhouse"])


def _checked_manifest(image: Path) -> str:
    """The manifest; an image whose label names another one has been changed, or was not built by these commands.

    Raises:
        InputError: label and contents differ.
    """
    from containers.apptainer import MANIFEST_LABEL, read_labels, read_manifest

    manifest = read_manifest(image)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    label = read_labels(image).get(MANIFEST_LABEL, "none")
    if label != digest:
        raise InputError(image, f"contents of the manifest {label}, which its label names", digest, "build it again")
    return manifest


def _keeping_exit_code(call: Callable[[], Any]) -> Any:
    """What the call returns; where Apptainer fails, the program ends with Apptainer's exit code."""
    from containers.apptainer import BuildError

    try:
        return call()
    except BuildError as error:
        sys.exit(error.code)
