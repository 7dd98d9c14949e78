"""How the embedded model was made: ``python -m experiments.embedded_model.recipe``."""
