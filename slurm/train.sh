# What both batch scripts do; sourced by them. CONFIG and further words of `p2m train` are their arguments.
#
# Slurm warns the batch shell by SIGUSR1 before the time limit (--signal=B:USR1@120), and by SIGTERM when it takes the
# nodes back. Either goes on to every process, which finishes its step, writes a checkpoint and exits with 75; then the
# job is queued again and goes on from there.
set -uo pipefail
PREEMPTED=75
P2M=${P2M:-.venv/bin/p2m}

forward() { # by srun to every process
    asked=1
    kill -s "$1" "$steps" 2>/dev/null
}

train() {
    asked=0
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    export MASTER_ADDR MASTER_PORT P2M
    # One process a task: Slurm's numbers are torch's RANK, LOCAL_RANK and WORLD_SIZE.
    # shellcheck disable=SC2016 # the variables are each task's own
    srun --kill-on-bad-exit=1 bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        exec "$P2M" train --config "$@"' train "$@" &
    steps=$!
    trap 'forward USR1' USR1
    trap 'forward TERM' TERM
    wait "$steps"
    status=$?
    while kill -0 "$steps" 2>/dev/null; do # a signal ends the wait, not the steps
        wait "$steps"
        status=$?
    done
    if [ "$status" -ne 0 ] && { [ "$asked" -eq 1 ] || [ "$status" -eq "$PREEMPTED" ]; }; then
        scontrol requeue "$SLURM_JOB_ID"
        status=$PREEMPTED
    fi
    return "$status"
}
