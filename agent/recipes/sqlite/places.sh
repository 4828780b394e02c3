# Where the recipe's files lie. Override them in the environment of the agent's unit.

# The application's database.
database="${SQLITE_DATABASE:-/var/lib/app/app.db}"
# The folder that is carried: WATCHED_PATHS. Only the hooks write to it.
image="${SQLITE_IMAGE:-/var/lib/spot-sqlite/image}"
# How long a hook waits for the application's transactions, in milliseconds.
patience="${SQLITE_PATIENCE_MS:-10000}"
# Beside the image, on the same file system, and not carried.
taken="$image.taken"

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}
