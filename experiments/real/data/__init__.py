"""The data root of the experiment on pretrained weights, in the layouts of docs/data.md."""
