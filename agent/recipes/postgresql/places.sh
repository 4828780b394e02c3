# Where the recipe's files lie. Override them in the environment of the agent's unit.

root="${POSTGRES_ROOT:-/var/lib/spot-postgresql}"
# The server's data folder.
data="$root/data"
# The folder that is carried: WATCHED_PATHS. A base backup, and the write-ahead log since; only the hooks write to it.
image="$root/image"
# A newer base backup that waits to be taken into the image.
next="$root/next"
# Up to which segment the image has the log; the last one was still being written then.
noted="$root/copied"
port="${POSTGRES_PORT:-5432}"
# Of the server; the newest that Debian installed. Both ends of a failover must run the same major version.
programs="${POSTGRES_PROGRAMS:-$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)}"
# When the image holds this much log, a new base backup is made; replaying it is part of a promotion.
most_log_mb="${POSTGRES_MOST_LOG_MB:-512}"
# How much log the server keeps for the hooks to copy.
kept_log_mb="${POSTGRES_KEPT_LOG_MB:-1024}"

# How access rules begin that let nobody in.
frozen_mark="# frozen for a handover; pg_hba.thawed has the rules"

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

# The server refuses to be root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    else
        "$@"
    fi
}

ask() {
    as_postgres "$programs/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$root" -p "$port" -d postgres "$@"
}

is_running() {
    as_postgres "$programs/pg_ctl" status -s -D "$data" >/dev/null 2>&1
}

# The first segment that a base backup needs.
first_segment_of() {
    sed -n 's/^START WAL LOCATION: .* (file \([0-9A-F]\{24\}\))$/\1/p' "$1/backup_label"
}
