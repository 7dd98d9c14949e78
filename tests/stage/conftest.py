"""A small data folder and short runs on the embedded model."""

import pytest

from safe_train.config import StageAConfig, build_config
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.experiment import attach, load_base_model, load_rows, row_encoder, row_stream
from safe_train.stage_a import StageA


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, DatasetSizes(train_questions=60, val_questions=20, train_clips=40, val_clips=12))
    return root


@pytest.fixture
def configure(data_folder):
    """A configuration of eight short steps; keyword arguments are dotted settings with ``__`` for the dot."""

    def build(**settings) -> StageAConfig:
        defaults = {
            "data.root": data_folder, "optimization.max_steps": 8, "optimization.audio_batch_size": 4,
            "optimization.vl_batch_size": 4, "optimization.gate_warmup_share": 0, "checkpoint_every": 4,
            "retention.fisher_samples": 8, "log_every": 1,
        }  # fmt: skip
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        return build_config({}, {key: str(value) for key, value in (defaults | changes).items()})

    return build


@pytest.fixture
def prepare():
    """Stage A of a configuration, not yet started."""

    def build(config: StageAConfig) -> StageA:
        model = attach(load_base_model(config), config)
        return StageA(config, model, row_encoder(model, config.data), row_stream(load_rows(config), config))

    return build
