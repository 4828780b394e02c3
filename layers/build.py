"""Builds the Lambda layers without Docker: wheels for the target, then our own source.

`shared` is carried by every function, `ml` on top of it by those that score models. `python -m layers.build arm64
x86_64` builds both for both. A build is keyed by the content of what goes into it, so that an unchanged layer costs
nothing and an unchanged set of requirements is not installed again.
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
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import mkdtemp
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "layers"

#: AWS refuses a function whose code and layers are larger than this when unzipped.
LARGEST_UNZIPPED_BYTES: Final = 262_144_000

#: Lambda's name of an architecture, and the wheels that run on it. Amazon Linux 2023 has glibc 2.34.
WHEEL_PLATFORMS: Final = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}

#: The AWS services the functions talk to. botocore ships the models of some four hundred, 20 MB that each cold start of
#: each function would carry along. A test holds this list against the clients that the adapters make.
AWS_SERVICES: Final = frozenset(
    {
        "dynamodb",
        "ec2",
        "elbv2",
        "kms",
        "lambda",
        "pricing",
        "route53",
        "s3",
        "service-quotas",
        "ssm",
        "stepfunctions",
        "sts",
    }
)


class LayerTooLarge(Exception):
    """The layers together would not fit into a function."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What becomes one layer.

    Attributes:
        name: Of its folder below layers/.
        package: Ours, in it.
        requirements: Hashed, below requirements/.
    """

    name: str
    package: str
    requirements: str

    @property
    def source(self) -> Path:
        return ROOT / "layers" / self.name / "python"


SHARED: Final = Layer("shared", "spot_optimizer", "layer.txt")
ML: Final = Layer("ml", "spot_optimizer_ml", "ml.txt")
LAYERS: Final = (SHARED, ML)


def build_layer(layer: Layer, architecture: str) -> Path:
    """Build a layer for one architecture, or find it built.

    Args:
        layer: Which.
        architecture: `arm64` or `x86_64`.

    Returns:
        The folder that becomes the layer's archive; it holds `python/`.

    Raises:
        subprocess.CalledProcessError: A requirement has no wheel for that architecture, or its hash is wrong.
    """
    dependencies = _install_dependencies(layer, architecture)
    folder = BUILD / f"{layer.name}-{architecture}"
    key = _digest([dependencies.name.encode(), *_contents_of(layer.source)])
    stamp = _stamp(layer, architecture)
    if not (folder.is_dir() and stamp.is_file() and stamp.read_text() == key):
        with _workspace() as workspace:
            packages = workspace / "python"
            shutil.copytree(dependencies, packages, copy_function=os.link)
            shutil.copytree(layer.source, packages, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            _compile(packages / layer.package, root=packages)
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            workspace.rename(folder)
        stamp.write_text(key)
    return folder


def build_layers(architecture: str) -> tuple[Path, ...]:
    """Build every layer for one architecture, and see that one function can carry them all.

    Raises:
        LayerTooLarge: The unzipped layers exceed what Lambda accepts.
        subprocess.CalledProcessError: As `build_layer`.
    """
    folders = tuple(build_layer(layer, architecture) for layer in LAYERS)
    size = sum(map(unzipped_bytes, folders))
    if size >= LARGEST_UNZIPPED_BYTES:
        raise LayerTooLarge(
            f"the layers for {architecture} have {size:,} bytes unzipped, Lambda takes less than "
            f"{LARGEST_UNZIPPED_BYTES:,}; trim what no function reads"
        )
    return folders


def content_key(layer: Layer, architecture: str) -> str:
    """Name what a built layer was made of, so that a deploy uploads it only when that changed."""
    return _stamp(layer, architecture).read_text()


def _stamp(layer: Layer, architecture: str) -> Path:
    return BUILD / f"{layer.name}-{architecture}.sha256"


def unzipped_bytes(folder: Path) -> int:
    """Add up the files under a folder, as Lambda does."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _install_dependencies(layer: Layer, architecture: str) -> Path:
    requirements = ROOT / "requirements" / layer.requirements
    key = _digest([requirements.read_bytes(), Path(__file__).read_bytes(), sys.version.encode()])
    installed = BUILD / "dependencies" / f"{layer.name}-{architecture}-{key[:16]}"
    if not installed.is_dir():
        with _workspace() as workspace:
            command: list[str | Path] = [
                *(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", sys.executable),
                *("--target", workspace, "--link-mode", "copy", "--require-hashes", "--only-binary", ":all:"),
                *("--python-platform", WHEEL_PLATFORMS[architecture], "--python-version", "3.13", "-r", requirements),
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
    """Remove what no function reads: tests, examples, what others compile against, records, unused service models."""
    for name in ("bin", "boto3/examples", ".lock", "numpy/_core/include", "numpy/_pyinstaller"):
        _remove(folder / name)
    for path in sorted(folder.rglob("*"), reverse=True):
        if (path.is_dir() and path.name in {"tests", "__pycache__"}) or path.suffix in _NEVER_READ:
            _remove(path)
    for record in folder.glob("*.dist-info/*"):
        if record.name in {"RECORD", "INSTALLER", "REQUESTED", "WHEEL"}:
            record.unlink()
    for model in (folder / "botocore" / "data").glob("*"):
        if model.is_dir() and model.name not in AWS_SERVICES:
            _remove(model)


_NEVER_READ: Final = {".pyi", ".h", ".hpp", ".a", ".lib", ".pxd", ".pyx", ".f90", ".c"}


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
        folders = build_layers(architecture)
        sizes = ", ".join(f"{folder.name} {unzipped_bytes(folder) / 1e6:.1f}" for folder in folders)
        print(f"{BUILD.relative_to(ROOT)}: {sizes} of {LARGEST_UNZIPPED_BYTES / 1e6:.1f} MB unzipped together")


if __name__ == "__main__":
    main()
