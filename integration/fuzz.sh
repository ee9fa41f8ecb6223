#!/usr/bin/env bash
# Runs every fuzz target of the product's module, or of the given folders, for the given time or number of runs:
# fuzz.sh 20000x [FOLDER...]
set -euo pipefail
cd "$(dirname "$0")/.."
runs=$1
shift

grep -rlE --include='*_test.go' '^func Fuzz' "${@:-.}" | sort | while read -r file; do
  sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file" | while read -r target; do
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$runs" -fuzzminimizetime 1x "./$(dirname "$file")" </dev/null
  done
done
