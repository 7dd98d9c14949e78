"""Settings of several processes."""

from __future__ import annotations

from safe_train.settings import Section


class ParallelSettings(Section):
    """What several processes share beside the rows of each batch."""

    shard_base: bool = False
    """Each process holds a part of every decoder layer of the frozen base, and gathers a layer while it runs."""
