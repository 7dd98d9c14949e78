"""A model on pretrained weights, recordings and photographs, all from pinned packages."""
