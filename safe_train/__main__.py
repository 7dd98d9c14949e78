"""``python -m safe_train`` is ``safe-train``: an entry for torchrun, ``torchrun ... -m safe_train --variant V``."""

from safe_train.cli import train

if __name__ == "__main__":
    train(prog_name="safe-train")
