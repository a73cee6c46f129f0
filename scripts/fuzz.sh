#!/usr/bin/env bash
# Fuzzes each decoder that has a Fuzz function, for a bounded time each (first argument, 3s if none). Packages may follow; all by default.
set -euo pipefail
span=${1:-3s}
shift || true
packages=("$@")
((${#packages[@]})) || mapfile -t packages < <(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u)
for dir in "${packages[@]}"; do
	dir=${dir#./}
	binary=$(mktemp)
	go test -c -o "$binary" "./$dir"
	for target in $(cd "$dir" && "$binary" -test.list '^Fuzz'); do
		echo "fuzz $dir $target for $span"
		# Without minimising what is merely interesting: that would take the time. What fails is written below testdata/fuzz.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$span" -fuzzminimizetime 1x "./$dir" >"$binary.log" 2>&1 || { cat "$binary.log"; exit 1; }
	done
	rm -f "$binary" "$binary.log"
done
