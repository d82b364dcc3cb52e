#!/usr/bin/env bash
# One recipe on every GPU of this machine, or of several machines. What follows the file's name goes to `foretell`; the same line begins a
# run and continues it:
#
#   deploy/torchrun.sh pretrain gpt2-small data.shards=shards --out runs/gpt2 --resume
#
# Several machines that share the folder of the run: the same line on each, with these before it.
#
#   NODES=2 HEAD=alpha:29400 NODE=0     on alpha; NODE=1 on the next. NODES=1:4 runs with whoever is there, four at most.
#   WORKERS=8                           processes on this machine; default: one per NVIDIA GPU, or one
set -euo pipefail

gpus=$(nvidia-smi --list-gpus 2> /dev/null | wc -l) || gpus=0
if [ -n "${HEAD:-}" ]; then
    # is_host is said, not guessed: a machine that does not know its own name under HEAD opens no store, and all wait for it.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # shared, as by default in torch 2.13, it leaves a machine that replaces another out
    meet=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id=foretell --rdzv-conf="is_host=$((NODE == 0))")
else
    meet=(--standalone)
fi
# A worker that dies costs a restart of all from the newest checkpoint; one that is asked to stop has two minutes to save.
exec torchrun "${meet[@]}" --nproc-per-node="${WORKERS:-$((gpus > 0 ? gpus : 1))}" --max-restarts=3 --shutdown-timeout=120 \
    -m foretell "$@"
