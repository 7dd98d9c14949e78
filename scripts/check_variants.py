"""Ends with one line and exit code 2 where a name is not in a registry of ``configs.retention_variants``.

    python scripts/check_variants.py RETENTION_VARIANTS no_retention full_retention

Needs the standard library and ``configs`` alone, so that a sweep is refused before anything heavy has started.
"""

from __future__ import annotations

import sys

from configs import retention_variants
from configs.lookup import look_up


def first_error(registry: str, names: list[str]) -> str | None:
    """What is wrong with the names, or None."""
    if not names:
        return "expected at least one variant, got none"
    for name in names:
        try:
            look_up("variant", name, getattr(retention_variants, registry))
        except ValueError as error:
            return str(error)
    return None


if __name__ == "__main__":
    problem = first_error(sys.argv[1], sys.argv[2:])
    if problem is not None:
        print(f"error: VARIANT_ORDER: {problem}", file=sys.stderr)
        sys.exit(2)
