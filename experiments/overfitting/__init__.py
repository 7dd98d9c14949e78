"""The overfitting ablation: Stage A on few clips for many epochs, and what that does to the VL answers.

Commands, in the order in which they are used::

    python -m experiments.overfitting.create_subset_manifest   # which clips
    python -m experiments.overfitting.create_val_manifest      # which questions
    python -m experiments.overfitting.package_subset           # the files of both in one folder
    python -m experiments.overfitting.run_overfitting          # train and evaluate
"""
