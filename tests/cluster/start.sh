#!/usr/bin/env bash
# Inside the root: starts munge, the controller and two node daemons, says "ready", and stops them when its input ends.
# The two nodes are this machine on two ports.
set -euo pipefail

cpus=$(nproc)
hostname safe-cluster
echo '127.0.0.1 localhost safe-cluster' >/etc/hosts
ip link set lo up
ip address add 192.0.2.1/32 dev lo   # with none but 127.0.0.1, the daemons find no address to listen on
mkdir -p /etc/slurm /run/munge /var/log/slurm /var/lib/slurm/state
chown munge:munge /run/munge
if [ ! -e /etc/munge/munge.key ]; then dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; fi
chown munge:munge /etc/munge/munge.key
chmod 600 /etc/munge/munge.key
chown slurm:slurm /var/lib/slurm/state /var/log/slurm
cat >/etc/slurm/slurm.conf <<CONFIGURATION
ClusterName=safe
SlurmctldHost=safe-cluster(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=10
MinJobAge=7200
StateSaveLocation=/var/lib/slurm/state
SlurmctldPidFile=/run/slurmctld.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdSpoolDir=/var/lib/slurm/%n
SlurmdPidFile=/run/slurmd-%n.pid
SlurmdLogFile=/var/log/slurm/%n.log
NodeName=n1 NodeHostname=safe-cluster NodeAddr=127.0.0.1 Port=17001 CPUs=$cpus
NodeName=n2 NodeHostname=safe-cluster NodeAddr=127.0.0.1 Port=17002 CPUs=$cpus
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONFIGURATION
echo 'CgroupPlugin=disabled' >/etc/slurm/cgroup.conf
chmod 644 /etc/slurm/*.conf

setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --pid-file /run/munge/munged.pid
touch /run/slurmctld.pid
chown slurm:slurm /run/slurmctld.pid
slurmctld
for node in n1 n2; do slurmd -N "$node"; done
for _ in $(seq 60); do
  [ "$(timeout 5 sinfo --noheader --states=idle --format=%D 2>/dev/null)" != 2 ] || break
  sleep 0.5
done
timeout 5 sinfo --Node
echo ready
cat >/dev/null
for file in /run/slurmd-n*.pid /run/slurmctld.pid /run/munge/munged.pid; do
  kill "$(cat "$file")" 2>/dev/null || true
done
