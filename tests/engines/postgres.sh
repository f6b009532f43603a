#!/usr/bin/env bash
# PostgreSQL on loopback, in a folder of its own, for whoever starts it (root gives it to the user postgres).
#   tests/engines/postgres.sh start FOLDER PORT      prints the URL for hydra.sweeper.storage
#   tests/engines/postgres.sh restart FOLDER         lets go of whoever is connected and starts it again
#   tests/engines/postgres.sh stop FOLDER            stops it and removes the folder
# Debian: apt-get install postgresql. No password is asked on loopback: a server for tests, not for a team.
set -euo pipefail
folder=$2
export PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)"
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- env PATH="$PATH" "$@"; else "$@"; fi; }
cd /
case $1 in
start)
    mkdir -p "$folder"
    [ "$(id -u)" != 0 ] || chown postgres "$folder"
    as initdb --pgdata="$folder/data" --username=stepladder --auth=trust --encoding=UTF8 >"$folder.log"
    options="-p $3 -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder"
    as pg_ctl --pgdata="$folder/data" --log="$folder/server.log" --options="$options" --wait start >>"$folder.log"
    echo "postgresql+psycopg://stepladder@127.0.0.1:$3/postgres"
    ;;
restart)
    as pg_ctl --pgdata="$folder/data" --log="$folder/server.log" --mode=fast --wait restart >>"$folder.log"
    ;;
stop)
    as pg_ctl --pgdata="$folder/data" --mode=fast --wait stop >>"$folder.log"
    rm -r "$folder" "$folder.log"
    ;;
esac
