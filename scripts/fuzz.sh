#!/usr/bin/env bash
# Fuzzes each decoder that has a Fuzz function, for a bounded time each (first argument, 3s if none). Packages may follow; all by default.
set -euo pipefail
span=${1:-3s}
shift || true
packages=("$@")
((${#packages[@]})) || mapfile -t packages < <(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u)

# only_the_end: the log's one complaint is that the time is over. Go's fuzzer before 1.27 says so now and then of a target that found nothing (golang/go#75804); a finding
# names its input, a crash and a seed that fails have other words beside these.
only_the_end() {
	[ "$(grep -A1 -- '^--- FAIL' "$1" | tail -n 1 | tr -d ' ')" = contextdeadlineexceeded ] &&
		! grep -qvE '^(fuzz: |--- FAIL: Fuzz|    context deadline exceeded$|FAIL|exit status 1$|$)' "$1"
}

for dir in "${packages[@]}"; do
	dir=${dir#./}
	binary=$(mktemp)
	go test -c -o "$binary" "./$dir"
	for target in $(cd "$dir" && "$binary" -test.list '^Fuzz'); do
		echo "fuzz $dir $target for $span"
		# Without minimising what is merely interesting: that would take the time. What fails is written below testdata/fuzz.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$span" -fuzzminimizetime 1x "./$dir" >"$binary.log" 2>&1 || only_the_end "$binary.log" || { cat "$binary.log"; exit 1; }
	done
	rm -f "$binary" "$binary.log"
done
