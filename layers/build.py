"""Builds the Lambda layer that every function carries, without Docker: wheels for the target, then our own source.

`python -m layers.build arm64 x86_64` builds both. A build is keyed by the content of what goes into it, so that an
unchanged layer costs nothing and an unchanged set of requirements is not installed again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from compileall import compile_dir
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import mkdtemp
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "layers" / "shared" / "python"
REQUIREMENTS: Final = ROOT / "requirements" / "layer.txt"
BUILD: Final = ROOT / "build" / "layers"

#: AWS refuses a function whose code and layers are larger than this when unzipped.
LARGEST_UNZIPPED_BYTES: Final = 262_144_000

#: Lambda's name of an architecture, and the wheels that run on it. Amazon Linux 2023 has glibc 2.34.
WHEEL_PLATFORMS: Final = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}

#: The AWS services the functions talk to. botocore ships the models of some four hundred, 20 MB that each cold start of
#: each function would carry along. A test holds this list against the clients that the adapters make.
AWS_SERVICES: Final = frozenset({"dynamodb", "ec2", "kms", "lambda", "s3", "ssm", "stepfunctions", "sts"})


class LayerTooLarge(Exception):
    """The layer alone would not fit into a function."""


def build_shared_layer(architecture: str) -> Path:
    """Build the layer for one architecture, or find it built.

    Args:
        architecture: `arm64` or `x86_64`.

    Returns:
        The folder that becomes the layer's archive; it holds `python/`.

    Raises:
        LayerTooLarge: The unzipped layer exceeds what Lambda accepts.
        subprocess.CalledProcessError: A requirement has no wheel for that architecture, or its hash is wrong.
    """
    dependencies = _install_dependencies(architecture)
    layer = BUILD / f"shared-{architecture}"
    key = _digest([dependencies.name.encode(), *_contents_of(SOURCE)])
    stamp = BUILD / f"shared-{architecture}.sha256"
    if not (layer.is_dir() and stamp.is_file() and stamp.read_text() == key):
        with _workspace() as workspace:
            packages = workspace / "python"
            shutil.copytree(dependencies, packages, copy_function=os.link)
            shutil.copytree(SOURCE, packages, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            _compile(packages / "spot_optimizer", root=packages)
            stamp.unlink(missing_ok=True)
            shutil.rmtree(layer, ignore_errors=True)
            workspace.rename(layer)
        stamp.write_text(key)
    size = unzipped_bytes(layer)
    if size >= LARGEST_UNZIPPED_BYTES:
        raise LayerTooLarge(
            f"{layer.name} has {size:,} bytes unzipped, Lambda takes less than {LARGEST_UNZIPPED_BYTES:,}"
        )
    return layer


def content_key(architecture: str) -> str:
    """Name what a built layer was made of, so that a deploy uploads it only when that changed."""
    return (BUILD / f"shared-{architecture}.sha256").read_text()


def unzipped_bytes(folder: Path) -> int:
    """Add up the files under a folder, as Lambda does."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _install_dependencies(architecture: str) -> Path:
    key = _digest([REQUIREMENTS.read_bytes(), Path(__file__).read_bytes(), sys.version.encode()])
    installed = BUILD / "dependencies" / f"{architecture}-{key[:16]}"
    if not installed.is_dir():
        with _workspace() as workspace:
            command: list[str | Path] = [
                *(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", sys.executable),
                *("--target", workspace, "--link-mode", "copy", "--require-hashes", "--only-binary", ":all:"),
                *("--python-platform", WHEEL_PLATFORMS[architecture], "--python-version", "3.13", "-r", REQUIREMENTS),
            ]
            subprocess.run(command, check=True)
            _trim(workspace)
            _compile(workspace, root=workspace)
            installed.parent.mkdir(exist_ok=True)
            workspace.rename(installed)
    return installed


@contextmanager
def _workspace() -> Iterator[Path]:
    """Give a folder to build in; what is complete is renamed out of it, what is not disappears."""
    BUILD.mkdir(parents=True, exist_ok=True)
    workspace = Path(mkdtemp(prefix="partial-", dir=BUILD))
    try:
        workspace.chmod(0o755)
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _trim(folder: Path) -> None:
    """Remove what no function reads: tests, examples, type stubs, installers' records, unused service models."""
    for name in ("bin", "boto3/examples", ".lock"):
        _remove(folder / name)
    for path in sorted(folder.rglob("*"), reverse=True):
        if (path.is_dir() and path.name in {"tests", "__pycache__"}) or path.suffix in {".pyi", ".h"}:
            _remove(path)
    for record in folder.glob("*.dist-info/*"):
        if record.name in {"RECORD", "INSTALLER", "REQUESTED", "WHEEL"}:
            record.unlink()
    for model in (folder / "botocore" / "data").iterdir():
        if model.is_dir() and model.name not in AWS_SERVICES:
            _remove(model)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _compile(folder: Path, *, root: Path) -> None:
    """Compile ahead: /opt is read-only, so a cold start would otherwise compile every module it imports.

    Unchecked, because an archive keeps no modification times that could be compared.
    """
    compile_dir(
        folder, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH, stripdir=root, prependdir="/opt/python"
    )


def _contents_of(folder: Path) -> list[bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes())]


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architectures", nargs="+", choices=sorted(WHEEL_PLATFORMS))
    for architecture in parser.parse_args().architectures:
        layer = build_shared_layer(architecture)
        size = unzipped_bytes(layer)
        print(f"{layer.relative_to(ROOT)}: {size / 1e6:.1f} of {LARGEST_UNZIPPED_BYTES / 1e6:.1f} MB unzipped")


if __name__ == "__main__":
    main()
