#!/bin/sh
# Makes the certificates of the transport's tests, valid for 100 years. They protect nothing.
set -eu
cd "$(dirname "$0")"
authority() { # name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
        -subj "/CN=$1 (test)" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
certificate() { # authority, name, subjectAltName
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2 (test)" \
        -keyout "$2.key" -out "$2.csr" 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3" >"$2.ext"
    openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 36500 \
        -extfile "$2.ext" -out "$2.pem" 2>/dev/null
    rm "$2.csr" "$2.ext"
}
authority ca
authority other-ca
certificate ca node IP:127.0.0.1,DNS:localhost
certificate ca elsewhere IP:127.0.0.1,DNS:elsewhere.example
certificate ca wrong-host DNS:elsewhere.example
certificate other-ca stranger IP:127.0.0.1,DNS:localhost
rm -f ./*.srl ca.key other-ca.key
