#!/bin/sh
# Brings a clone up to date where it is kept, and leaves what Git ignores in it: DVC's cache, checkpoints, outputs. What
# a run changed, dvc.lock for one, is the commit's again; DVC restores what that run computed from the clone's cache.
#
#   checkout REPOSITORY BRANCH FOLDER
#
# GIT_TOKEN is what https asks for; it is kept beside the clone, for `retrain` pushes with it. Prefect's own git_clone
# works in a folder that ends with the run, and where git refuses to pull, it removes the clone with all that is in it.
set -eu
if [ "$#" -ne 3 ]; then
    echo "usage: checkout REPOSITORY BRANCH FOLDER" >&2
    exit 2
fi
repository=$1 branch=$2 folder=$3
export GIT_TERMINAL_PROMPT=0

# No gc in the background: it would keep the locks below.
git_here() {
    git -c gc.autoDetach=false -c "credential.helper=store --file=$folder.credentials" "$@"
}

# Waits until no run works in the folder: the flows hold these locks.
lock() {
    if ! flock -n "$1"; then
        echo "checkout: waiting for a run that works in $folder" >&2
        flock "$1"
    fi
}

mkdir -p "$(dirname "$folder")"
exec 7>>"$folder.lock"
lock 7
if [ -n "${GIT_TOKEN:-}" ]; then
    host=${repository#https://}
    (umask 077 && echo "https://x-access-token:$GIT_TOKEN@${host%%/*}" >"$folder.credentials")
fi
if ! [ -d "$folder/.git" ]; then
    rm -rf "$folder.new" # left by one that was stopped
    git_here clone --quiet --branch "$branch" "$repository" "$folder.new"
    git -C "$folder.new" config credential.helper "store --file=$folder.credentials"
    mv "$folder.new" "$folder"
fi
mkdir -p "$folder/runs"
exec 8>>"$folder/runs/flow.lock" 9>>"$folder/runs/retrain.lock"
lock 8
lock 9
git -C "$folder" remote set-url origin "$repository"
git_here -C "$folder" fetch --quiet --prune origin
git -C "$folder" checkout --quiet --force -B "$branch" "origin/$branch"
echo "$folder is at $(git -C "$folder" log -1 --format='%h, %s')"
