"""A program that renders a chat template under limits of the kernel; it imports nothing of SAFE, to start fast.

It reads its input as JSON. Its exit code says whether memory or length exceeded the limits; any other error ends it
and is reported where the template is rendered for use.
"""

import json
import resource
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

OVER_LIMIT = 3


def main() -> int:
    """Renders each call's conversations, and returns the exit code."""
    given = json.load(sys.stdin)
    limit = _bytes_taken() + given["bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + given["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        texts = [render_jinja_template(chat_template=given["template"], **call)[0][0] for call in given["calls"]]
    except MemoryError:
        return OVER_LIMIT
    return OVER_LIMIT if max(map(len, texts)) > given["characters"] else 0


def _bytes_taken() -> int:
    """Addresses that the process has taken, which libraries that transformers imports may make gigabytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not on Linux
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
