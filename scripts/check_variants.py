"""Ends with one line and exit code 2 where a name is not in a registry of ``configs.retention_variants``.

    python scripts/check_variants.py RETENTION_VARIANTS no_retention full_retention

``RETENTION_VARIANTS`` counts variants of installed packages, and of the file that the environment names in
``VARIANTS_FILE``. Nothing heavy is imported, so that a sweep is refused before anything has started.
"""

from __future__ import annotations

import os
import sys

from safe_train.configs.lookup import look_up
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS
from safe_train.errors import InputError
from safe_train.variants import known_variants


def first_error(registry: str, names: list[str]) -> str | None:
    """What is wrong with the names, or None."""
    if not names:
        return "VARIANT_ORDER: expected at least one variant, got none"
    try:
        is_ablation = registry == "OVERFITTING_VARIANTS"
        known = OVERFITTING_VARIANTS if is_ablation else known_variants(os.environ.get("VARIANTS_FILE") or None)
        for name in names:
            look_up("variant", name, known)
    except InputError as error:
        return str(error)
    except ValueError as error:
        return f"VARIANT_ORDER: {error}"
    return None


if __name__ == "__main__":
    problem = first_error(sys.argv[1], sys.argv[2:])
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
