"""Data for plans: text-only examples enough that those of a batch are as long as the rows are on average."""

from pathlib import Path

import pytest

from safe_train.embedded.dataset import DatasetSizes, write_dataset
from tests.conftest import SMALL_SIZES


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small procedural data with all the text of the standard ones."""
    root = tmp_path_factory.mktemp("planned")
    text = {"train_text": 600, "val_text": 600, "train_documents": 100, "val_documents": 100}
    write_dataset(root, DatasetSizes(**{**SMALL_SIZES, **text}))
    return root
