# Where the recipe's files lie. Override them in the environment of the agent's unit.

root="${REDIS_ROOT:-/var/lib/spot-redis}"
# What the server writes.
live="$root/live"
# The folder that is carried: WATCHED_PATHS. Only the hooks write to it.
image="$root/image"
socket="$root/redis.sock"
port="${REDIS_PORT:-6379}"
# A configuration file of your own, and a password for the hooks: REDISCLI_AUTH is read by redis-cli itself.
configuration="${REDIS_CONF:-}"
log="appendonlydir"
manifest="appendonly.aof.manifest"

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

ask() {
    redis-cli -s "$socket" "$@"
}

serve() {
    umask 077
    # The later word wins, so the configuration file can not take back what the recipe rests on.
    exec redis-server ${configuration:+"$configuration"} --dir "$live" --appendonly yes --appenddirname "$log" \
        --appendfilename appendonly.aof --aof-load-truncated yes --save "" --daemonize no \
        --port "$port" --unixsocket "$socket" --unixsocketperm 700 "$@"
}
