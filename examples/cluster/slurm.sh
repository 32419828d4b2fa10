#!/bin/bash
# One run on all nodes of a Slurm job. Submitted again, it goes on where it stood.
#SBATCH --job-name=vlitqc
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

# Change these: all of them lie where every node sees them under the same path.
# shellcheck source=/dev/null
source /shared/venv/bin/activate
export HF_HOME=/shared/huggingface
run=(vlitqc score /shared/data/train.json --image-root /shared/data/images --out /shared/runs/train --profile modern)

# Not on a shared file system: each node has a cache of its own.
export VLITQC_CACHE=/tmp/vlitqc-$USER
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
# Nobody else on the network may use this cluster. A node that joins looks for no token unless the mode is set.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0

# This script runs on the first node, which becomes the head. The port is another for each job.
host=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
address=$host:$((20000 + SLURM_JOB_ID % 10000))
start=(ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
step=(srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")
others=$((SLURM_JOB_NUM_NODES - 1))
# shellcheck disable=SC2046 # one word a process is meant
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" \
  "${start[@]}" --head --node-ip-address="$host" --port="${address##*:}" --include-dashboard=false &
until (: >"/dev/tcp/$host/${address##*:}") 2>/dev/null; do
  kill -0 $! 2>/dev/null || { echo "the head has ended before it could start" >&2; exit 1; }
  sleep 1
done
if ((others > 0)); then
  "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" "${start[@]}" --address="$address" &
fi

# Workers are counted when the run begins, so all nodes have to be there.
python - "$address" "$SLURM_JOB_NUM_NODES" <<'END'
import sys
import time

import ray

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
end = time.monotonic() + 300
while (joined := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > end:
        sys.exit(f"only {joined} of {sys.argv[2]} nodes joined within 5 minutes")
    time.sleep(1)
END

"${run[@]}" --engine ray --ray-address "$address"
