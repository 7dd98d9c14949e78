"""The embedded model: a tiny vision-language model, a tiny audio encoder and the procedural data they were trained on.

Both models use the real Hugging Face classes and file formats, so the code that trains on them is the code that
trains on LLaVA-1.5-13B and CLAP. Their weights are in the package; the recipe that made them is ``recipe.py``.
"""
