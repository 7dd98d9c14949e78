"""The commands ``safe`` and ``safe-train``, one module a command.

Heavy imports happen inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

from safe_train.cli import ask, container, data, env, evaluate, export, report, rerun_step, variants
from safe_train.cli.options import HELP, group, version_option
from safe_train.cli.train import train

__all__ = ["safe", "train"]


@group(context_settings=HELP)
@version_option
def safe() -> None:
    """Add hearing to a vision-language model, and measure that it still sees and answers as before."""


for _command in (
    train,
    variants.variants,
    evaluate.evaluate,
    report.report,
    ask.ask,
    rerun_step.rerun_step,
    rerun_step.replay,
    export.export,
    env.env,
    container.container_group,
    data.data_group,
):
    safe.add_command(_command)
