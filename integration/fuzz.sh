#!/usr/bin/env bash
# Runs every fuzz target of the product's module for the given time or number of runs: fuzz.sh 20000x
set -euo pipefail
cd "$(dirname "$0")/.."

grep -rlE --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
  sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file" | while read -r target; do
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 1x "./$(dirname "$file")" </dev/null
  done
done
