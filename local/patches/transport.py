"""TLS: what never leaves the machine counts as encrypted in transit, as it is on AWS."""

from __future__ import annotations

import ministack.core.iam_evaluator as iam_evaluator

from local.patches.rewriting import rewrite


def apply() -> None:
    """Patch the evaluator, so that policies which demand TLS are enforced there and can be met here."""
    rewrite(
        "loopback counts as TLS 1.3",
        iam_evaluator,
        "_resolve_condition_key",
        {
            "        return str(ctx.secure_transport).lower()\n": (
                '        return "true"\n    if k == "s3:tlsversion":\n        return "1.3"\n'
            )
        },
    )
