"""Reads what a tracker has recorded with the tracker's own package: ``python read.py NAME FOLDER PROJECT``.

Prints JSON: the points of each metric as ``[step, value]`` in their order, what was recorded of the configuration, and
how many runs there are.
"""

import json
import os
import sys
from pathlib import Path


def tensorboard(folder, _project):
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    points = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    written = [yaml.safe_load(path.read_text()) for path in (folder / "tensorboard").glob("*/hparams.yml")]
    return points, written[0] if written else None, 1


def leveldb_records(log):
    """The records of a W&B file: LevelDB's log format, with 7 bytes of W&B's before.

    Blocks of 32 KiB; a record's parts are checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last)
    and data, and none begins in the last 6 bytes of a block. https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    assert log[:4] == b":W&B"
    at, parts = 7, []
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def wandb(folder, _project):
    from wandb.proto import wandb_internal_pb2

    def named(items):
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    points, configuration, ids = {}, {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            configuration |= named(record.run.config.update) | named(record.config.update)
            values = named(record.history.item)
            for name in values.keys() - {"step", "_step", "_runtime", "_timestamp"}:
                points.setdefault(name, []).append([values["step"], values[name]])
    return points, configuration, len(ids)


def trackio(_folder, project):
    from trackio.sqlite_storage import SQLiteStorage

    names = SQLiteStorage.get_runs(project)
    points = {}
    for line in SQLiteStorage.get_logs(project, names[0]):
        for name in line.keys() - {"step", "timestamp"}:
            points.setdefault(name, []).append([line["step"], line[name]])
    return points, SQLiteStorage.get_run_config(project, names[0]), len(names)


def mlflow(_folder, project):
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.search_runs([client.get_experiment_by_name(project).experiment_id])
    run = found[0]
    points = {
        name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    return points, run.data.params | {"status": run.info.status}, len(found)


if __name__ == "__main__":
    name, folder, project = sys.argv[1:]
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)  # what packages print goes elsewhere
    points, configuration, runs = globals()[name](Path(folder), project)
    os.write(real, json.dumps({"points": points, "configuration": configuration, "runs": runs}).encode())
