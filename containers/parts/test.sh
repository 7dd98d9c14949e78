# shellcheck shell=sh
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export SAFE_CACHE="$scratch" TRITON_CACHE_DIR="$scratch/triton" PYTHONPYCACHEPREFIX="$scratch/bytecode" HF_HUB_OFFLINE=1
cd "$scratch"
safe env
python3 -m experiments.overfitting.run_overfitting --help >/dev/null
test "$(python3 -c 'import configs.lookup, safe_train.configs.lookup as own; print(own is configs.lookup)')" = True
echo "one kernel against its definition"
python3 - <<'PYTHON'
import torch

from safe_kernels import kl_divergence

device = "cuda" if torch.cuda.is_available() else "cpu"
student, teacher = torch.randn(2, 32, 257, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
expected = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1).mean()
value = kl_divergence(student.float().to(device), teacher.float().to(device)).double().cpu()
torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
print(f"KL on {device}: {value.item():.6f}")
PYTHON
echo "two training steps"
safe-train --variant full_retention --max-steps 2 --output-root "$scratch/runs" --set evaluation.max_vl=4 \
  --set evaluation.max_audio=4 --set data.max_train_vl=128 --set data.max_train_audio=64 \
  --set retention.fisher_samples=8 --set retention.null_space_min_samples=16 --set optimization.vl_batch_size=8
test -s "$scratch"/runs/*/metrics.json
