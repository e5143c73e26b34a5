#!/bin/sh
# Makes the secrets that docker-compose.yml reads, in ./secrets, where they are not there yet; asks for a login.
set -eu
umask 077
cd "$(dirname "$0")/.."
mkdir -p secrets
# Containers read the files as users of their own, so the files are for everybody, and the folder for its owner alone.
keep() {
    if [ ! -s "secrets/$1" ]; then
        cat > "secrets/$1"
        chmod 644 "secrets/$1"
        echo "secrets/$1 is made"
    fi
}
openssl rand -hex 24 | keep postgres_admin_password
openssl rand -hex 24 | keep postgres_password
printf 'postgresql://hpo:%s@db:5432/hpo\n' "$(cat secrets/postgres_password)" | keep storage_url
openssl rand -hex 24 | keep dashboard_token
if [ ! -s secrets/logins ]; then
    printf 'login for the dashboard: ' && read -r name
    printf '%s %s\n' "$name" "$(docker run --rm --interactive --tty caddy:2.10.2 caddy hash-password | tail -n 1 | tr -d '\r')" | keep logins
fi
