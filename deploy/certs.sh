#!/usr/bin/env bash
# Makes a certificate authority for trying things: one server certificate and one client certificate per site.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/certs.sh DIR [--host NAME_OR_IP]... [--days N] NAME...

Makes, in DIR, what server.yaml and client.yaml ask for under `tls: {cert, key, ca}`:
  ca.pem, ca.key           the authority; ca.pem goes to everyone, ca.key stays here
  server.pem, server.key   the server's, valid for localhost, 127.0.0.1, ::1 and each --host
  NAME.pem, NAME.key       one per site; the site is called NAME, whatever else it says

  --host NAME_OR_IP   another name or address under which sites reach the server (repeatable)
  --days N            how long the certificates are valid (default 365)

What is there and still fits is kept: run it again to add sites or hosts. Keys have mode 0600.
The authority's key lies unprotected on disk: for trying things and for tests, not for a real federation.
TEXT
}

fail() { echo "certs.sh: $1" >&2; exit "${2:-2}"; }

dir= days=365
hosts=(localhost 127.0.0.1 ::1) names=()
while (($#)); do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --host) (($# > 1)) || fail "--host needs a name or an address"; hosts+=("$2"); shift 2 ;;
    --days) (($# > 1)) || fail "--days needs a number"; days=$2; shift 2 ;;
    -*) fail "unknown option $1; see --help" ;;
    *) if [[ -z $dir ]]; then dir=$1; else names+=("$1"); fi; shift ;;
  esac
done
[[ -n $dir && ${#names[@]} -gt 0 ]] || { usage >&2; exit 2; }
[[ $days =~ ^[1-9][0-9]*$ ]] || fail "--days must be a positive number, found '$days'"
command -v openssl >/dev/null || fail "openssl is missing; install it with: apt-get install openssl" 1
for name in "${names[@]}"; do
  [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$ ]] ||
    fail "'$name' is no site name; expected 1 to 64 of A-Z a-z 0-9 . _ - that do not begin with . or -"
  [[ $name != ca && $name != server ]] || fail "a site cannot be called '$name' here: that is the name of another file"
done

umask 077
mkdir -p "$dir"
work=$(mktemp -d "$dir/.certs.XXXXXX")
trap 'rm -rf "$work"' EXIT
made=() kept=()

quiet() { openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; fail "openssl $1 failed" 1; }; }

new_key() { quiet ecparam -name prime256v1 -genkey -noout -out "$1"; }

# fits FILE: there, signed by the authority, matching its key, valid for another day, and of the wanted names.
fits() {
  local base=$1 alt=${2:-}
  [[ -s $base.pem && -s $base.key ]] || return 1
  openssl verify -CAfile "$dir/ca.pem" "$base.pem" >/dev/null 2>&1 || return 1
  openssl x509 -in "$base.pem" -noout -checkend 86400 >/dev/null 2>&1 || return 1
  [[ $(openssl x509 -in "$base.pem" -noout -pubkey 2>/dev/null) == "$(openssl pkey -in "$base.key" -pubout 2>/dev/null)" ]] || return 1
  [[ -z $alt ]] || [[ $(cat "$base.hosts" 2>/dev/null) == "$alt" ]]
}

# issue BASE COMMON_NAME USAGE [SUBJECT_ALT_NAME]
issue() {
  local base=$1 name=$2 usage=$3 alt=${4:-}
  if fits "$base" "$alt"; then
    kept+=("$base.pem")
    return
  fi
  new_key "$work/key"
  quiet req -new -key "$work/key" -subj "/CN=$name" -out "$work/csr"
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=$usage"
    if [[ -n $alt ]]; then echo "subjectAltName=$alt"; fi
  } >"$work/ext"
  quiet x509 -req -in "$work/csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days "$days" -sha256 -extfile "$work/ext" -out "$work/pem"
  mv "$work/key" "$base.key"
  mv "$work/pem" "$base.pem"
  chmod 644 "$base.pem"
  if [[ -n $alt ]]; then echo "$alt" >"$base.hosts"; fi
  made+=("$base.pem" "$base.key")
}

if [[ -s $dir/ca.pem && -s $dir/ca.key ]] && openssl x509 -in "$dir/ca.pem" -noout -checkend 86400 >/dev/null 2>&1; then
  kept+=("$dir/ca.pem")
else
  new_key "$work/ca.key"
  quiet req -x509 -new -key "$work/ca.key" -sha256 -days "$days" -subj "/CN=Strata trial authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$work/ca.pem"
  mv "$work/ca.key" "$dir/ca.key"
  mv "$work/ca.pem" "$dir/ca.pem"
  chmod 644 "$dir/ca.pem"
  made+=("$dir/ca.pem" "$dir/ca.key")
fi

if [[ -s $dir/server.hosts ]]; then  # hosts given in an earlier run stay
  while IFS= read -r entry; do hosts+=("${entry#*:}"); done < <(tr ',' '\n' <"$dir/server.hosts")
fi
alt=
for host in $(printf '%s\n' "${hosts[@]}" | sort -u); do
  if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then entry=IP:$host; else entry=DNS:$host; fi
  alt=${alt:+$alt,}$entry
done
issue "$dir/server" server serverAuth "$alt"
for name in "${names[@]}"; do issue "$dir/$name" "$name" clientAuth; done
chmod 600 "$dir"/*.key

for file in "${made[@]}"; do echo "made  $file"; done
for file in "${kept[@]}"; do echo "kept  $file"; done
cat <<TEXT

server.yaml   tls: {cert: $dir/server.pem, key: $dir/server.key, ca: $dir/ca.pem}
client.yaml   tls: {cert: $dir/${names[0]}.pem, key: $dir/${names[0]}.key, ca: $dir/ca.pem}
TEXT
