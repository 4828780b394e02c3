"""Writes the templates as `cdk synth` would, without the CDK command line, and only when something changed.

The command line hands an app its context and its output folder through two environment variables; so does this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from infra.node import choose_node
from layers.build import LAYERS, WHEEL_PLATFORMS, build_layers, content_key

_ROOT: Final = Path(__file__).resolve().parent.parent
_INPUTS: Final = ("app.py", "cdk.json", "infra", "functions", "statemachines")


def host_architecture() -> str:
    """Lambda's name of this machine's architecture: what is deployed here must run here."""
    return "arm64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"


def synthesize(out: Path, *, stage: str, architecture: str) -> None:
    """Write a cloud assembly.

    Args:
        out: The assembly's folder.
        stage: `dev` or `prod`.
        architecture: Of the functions.

    Raises:
        subprocess.CalledProcessError: The app failed, or a rule of cdk-nag is broken; it has said which.
    """
    build_layers(architecture)
    context = json.loads((_ROOT / "cdk.json").read_text())["context"] | {"stage": stage, "architecture": architecture}
    key = _content_key(context)
    stamp = out.with_name(f"{out.name}.sha256")
    if out.is_dir() and stamp.is_file() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    environment = os.environ | {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(out.resolve())}
    choose_node(environment)
    subprocess.run([sys.executable, str(_ROOT / "app.py")], env=environment, cwd=_ROOT, check=True)
    stamp.write_text(key)


def _content_key(context: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(context, sort_keys=True).encode())
    for layer in LAYERS:
        digest.update(content_key(layer, str(context["architecture"])).encode())
    for path in _input_files():
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _input_files() -> Iterator[Path]:
    for name in _INPUTS:
        path = _ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_ROOT / "build" / "cdk.out")
    parser.add_argument("--stage", default="dev")
    parser.add_argument("--architecture", choices=sorted(WHEEL_PLATFORMS), default=host_architecture())
    chosen = parser.parse_args()
    try:
        synthesize(chosen.out, stage=chosen.stage, architecture=chosen.architecture)
    except subprocess.CalledProcessError as failure:
        return failure.returncode
    print(f"templates for {chosen.stage}, {chosen.architecture}: {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
