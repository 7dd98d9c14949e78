"""Fine-tuning without forgetting: SAFE's variants beside peers, on the same rows, steps and tries.

python -m experiments.peers.run --output docs/results/peers.jsonl    # about an hour on two cores
python -m experiments.peers.table docs/results/peers.jsonl
"""
