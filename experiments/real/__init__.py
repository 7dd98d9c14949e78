"""The ablation on real pretrained weights, recordings and photographs, all of them from package registries."""
