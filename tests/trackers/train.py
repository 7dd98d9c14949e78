"""A trainer of transformers with retention that reports to TensorBoard and trackio."""

import json
import sys
from pathlib import Path

from safe_train.huggingface import Retention
from tests.finetuning.tiny_text import SETTINGS, retentive, rows, text_model

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    retention = Retention(rows(32, 2), "full_retention", settings=SETTINGS, seed=3)
    options = {"report_to": ["tensorboard", "trackio"], "project": "ears", "run_name": "words"}
    trainer = retentive(folder, text_model(adapter=True), retention, max_steps=4, **options)
    trainer.train()
    (folder / "log_history.json").write_text(json.dumps(trainer.state.log_history))
