"""A run that ends after a step: ``python -m tests.trackers.interrupted CONFIG STEP`` starts one and stops it there.

``python -m tests.trackers.interrupted RUN STEP`` resumes it and kills it there.
"""

import os
import signal
import sys
import time
from pathlib import Path

from safe_train.config import build_config, read_config_file
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import resume_run, start_run

if __name__ == "__main__":
    path, last, done = Path(sys.argv[1]), int(sys.argv[2]), []

    def kill(step, _total, _metrics):
        if step == last:
            time.sleep(5)  # trackers send from threads of their own; what these still have at a kill is lost
            os.kill(os.getpid(), signal.SIGKILL)

    if path.is_dir():
        resume_run(path, RunCallbacks(step=kill))
    else:
        config = build_config(read_config_file(path), {})
        start_run(config, RunCallbacks(step=lambda step, *_: done.append(step), should_stop=lambda: len(done) == last))
