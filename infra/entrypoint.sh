#!/bin/sh
# Runs a command with secrets from files: where NAME_FILE=/run/secrets/…, NAME is that file's content. So a
# secret stands in no compose file, and in nobody's `docker inspect`. Left alone are files elsewhere, in folders of
# their own too, and variables by which a library asks for a file: AWS's, and those of certificates.
set -eu

# A container may run as any uid: that of the checkout's owner, say. DVC, ssh and others end where it has no name.
if ! id -un >/dev/null 2>&1; then
    echo "owner:x:$(id -u):$(id -g)::${HOME:-/tmp}:/bin/sh" >>/var/lib/extrausers/passwd
fi

for name in $(env | sed -n 's|^\([A-Z][A-Z0-9_]*\)_FILE=/run/secrets/[^/]*$|\1|p'); do
    case $name in
    AWS_SHARED_CREDENTIALS | AWS_CONFIG | AWS_WEB_IDENTITY_TOKEN | AWS_CONTAINER_AUTHORIZATION_TOKEN | *SSL_CERT) continue ;;
    esac
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
