#!/usr/bin/env bash
# Fuzzes each decoder that has a Fuzz function, for a bounded time each (first argument, 3s if none). Packages may follow; all by default.
#
# The time is up when this script interrupts the run, which the fuzzing engine takes for its end. Its own limit, -fuzztime, fails a run now and then that has found
# nothing: "context deadline exceeded", go.dev/issue/75804.
set -euo pipefail
span=${1:-3s}
shift || true
packages=("$@")
((${#packages[@]})) || mapfile -t packages < <(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u)
binary=$(mktemp)
log=$(mktemp)
trap 'rm -f "$binary" "$log"' EXIT

# fuzz runs a target in its package's directory until the span is over after the engine has begun, or until it fails.
fuzz() {
	(cd "$1" && exec "$binary" -test.run '^$' -test.fuzz "^$2\$" -test.fuzzcachedir "$3" -test.fuzzminimizetime 1x) >"$log" 2>&1 &
	local run=$!
	# Without minimising what is merely interesting: that would take the time. What fails is written below testdata/fuzz.
	until grep -q '^fuzz: elapsed' "$log" || ! kill -0 "$run" 2>/dev/null; do sleep 0.1; done
	sleep "$span"
	kill -INT "$run" 2>/dev/null || true # it has failed
	wait "$run"
}

for dir in "${packages[@]}"; do
	dir=${dir#./}
	go test -c -fuzz . -o "$binary" "./$dir"
	cache=$(go env GOCACHE)/fuzz/$(go list "./$dir")
	for target in $(cd "$dir" && "$binary" -test.list '^Fuzz'); do
		echo "fuzz $dir $target for $span"
		fuzz "$dir" "$target" "$cache" || { cat "$log"; exit 1; }
	done
done
