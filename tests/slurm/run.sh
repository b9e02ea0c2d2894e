#!/usr/bin/env bash
# A sweep and a table of the toy through a real Slurm on this machine, with a task that is interrupted and requeued.
#     apt-get install slurm-wlm munge; tests/slurm/run.sh [PYTHON]        as root, about five minutes; not part of CI
# The node claims two GPUs that are not there, so that configs/hydra/launcher/slurm.yaml runs as it is written.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(readlink -f "$(dirname "${1:-.venv/bin/python}")")/python folder=$(mktemp -d) host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf PYTHONPATH=$PWD OMP_NUM_THREADS=1
trap 'kill $(jobs -p) $(cat "$folder"/*.pid) 2>/dev/null; echo "logs: $folder"' EXIT
cat > "$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES
END
printf 'Name=gpu File=%s\n' /dev/zero /dev/full > "$folder/gres.conf"
mkdir "$folder/spool"
dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none && chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
slurmctld && slurmd -N "$host"
until sinfo --noheader | grep --quiet idle; do sleep 1; done

toy=(model=toy dataset=toy optim=toy trainer=toy "outputs=$folder/outputs")
"$python" train.py -m hydra/launcher=slurm "${toy[@]}" adapter=lora,loda optim.epochs=10 &
sweep=$!
until compgen -G "$folder/outputs/runs/*lora*/metrics.jsonl"; do kill -0 "$sweep" && sleep 1; done
scancel --signal=USR1 "$(squeue --noheader --array --format=%i | sort | head -1)"  # as at the time limit
wait "$sweep"
grep --recursive "exit code\|stopped by\|Requeue\|requeue" "$folder/outputs/multirun" || true
"$python" - "$folder/outputs" <<'END'
import sys
from eval.results import collect
resumed = {record.run: record.training["resumed"] for record in collect(sys.argv[1])}
print(resumed)
assert sorted(resumed.values()) == [0, 1], "one of two runs was to be interrupted, requeued and resumed"
END
"$python" -m scripts table table1 --profile toy --rows LoRA --launcher slurm "outputs=$folder/outputs"
while squeue --noheader | grep --quiet .; do sleep 1; done  # or the steps outlive the daemons
