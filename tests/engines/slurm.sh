#!/usr/bin/env bash
# A Slurm cluster of two nodes on loopback, with accounting, in a folder of its own and as whoever starts it.
#   tests/engines/slurm.sh start FOLDER PORT     prints where its slurm.conf lies: export SLURM_CONF=...
#   tests/engines/slurm.sh stop FOLDER           stops it and removes the folder
# It takes PORT and the four behind it. Debian: apt-get install slurm-wlm slurmdbd munge mariadb-server
# Without slurmdbd a job that is killed is never noticed by submitit: sacct alone tells of it.
set -euo pipefail
folder=$(realpath -m "$2")
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$folder/slurm.conf"

settings() {
    local host user
    host=$(hostname -s) user=$(id -un)
    cat >"$folder/slurm.conf" <<END
ClusterName=stepladder
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$(($1 + 2))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdLogFile=$folder/slurmd.%n.log
SlurmdSpoolDir=$folder/spool.%n
StateSaveLocation=$folder/state
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$(($1 + 1))
AccountingStoragePass=$folder/munge.socket
JobAcctGatherType=jobacct_gather/linux
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$(($1 + 3))-$(($1 + 4))] CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    install -m 600 /dev/stdin "$folder/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$(($1 + 1))
SlurmUser=$user
LogFile=$folder/slurmdbd.log
PidFile=$folder/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$1
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
END
}

database() {
    local user
    user=$(id -un)
    mariadb-install-db --no-defaults --user="$user" --datadir="$folder/sql" --auth-root-authentication-method=normal
    mariadbd --no-defaults --user="$user" --datadir="$folder/sql" --socket="$folder/sql.socket" --port="$1" \
        --bind-address=127.0.0.1 --pid-file="$folder/mariadbd.pid" &
    until mariadb --no-defaults --socket="$folder/sql.socket" --user=root --execute="
        create database slurm; create user 'slurm'@'localhost' identified by 'slurm';
        create user 'slurm'@'127.0.0.1' identified by 'slurm';
        grant all on slurm.* to 'slurm'@'localhost'; grant all on slurm.* to 'slurm'@'127.0.0.1'"; do sleep 0.5; done
}

start() {
    mkdir -p "$folder"/{state,spool.n1,spool.n2}
    chmod 700 "$folder"
    settings "$1"
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
    database "$1"
    slurmdbd
    until sacctmgr --immediate add cluster stepladder; do sleep 0.5; done
    slurmctld
    for node in n1 n2; do slurmd -N "$node"; done
    until sinfo --noheader --format=%T | grep -qx idle; do sleep 0.5; done
}

case $1 in
start)
    mkdir -p "$folder"
    start "$3" >"$folder/start.log" 2>&1 </dev/null || { tail -n 5 "$folder/start.log" >&2; exit 1; }
    echo "$SLURM_CONF"
    ;;
stop)
    scancel --user="$(id -un)" || true
    for name in slurmd.n1 slurmd.n2 slurmctld slurmdbd munged mariadbd; do
        [ ! -f "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" || true
    done
    while [ -f "$folder/mariadbd.pid" ] || [ -f "$folder/slurmctld.pid" ]; do sleep 0.2; done
    rm -r "$folder"
    ;;
esac
