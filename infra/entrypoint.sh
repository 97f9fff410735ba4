#!/bin/sh
# Runs a command with secrets from files: where NAME_FILE=/run/secrets/…, NAME is that file's content. So a
# secret stands in no compose file, and in nobody's `docker inspect`. Other *_FILE variables are left alone.
set -eu

for name in $(env | sed -n 's|^\([A-Z][A-Z0-9_]*\)_FILE=/run/secrets/.*|\1|p'); do
    file=$(printenv "${name}_FILE")
    if ! [ -r "$file" ]; then
        echo "entrypoint: $file, named by ${name}_FILE, cannot be read: mount that secret, readable by uid $(id -u)" >&2
        exit 1
    fi
    value=$(cat "$file")
    export "$name=$value"
    unset "${name}_FILE"
done
exec "$@"
