package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// crashDirVariable makes TestMain's child a writer into that data directory, to be killed.
const crashDirVariable = "GODWIT_STORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirVariable); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled commits pairs of records for ever and prints each number after its commit was acknowledged.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{DataDir: dir, Logger: quiet(), Tables: []AnyTable{plain}})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		_, err := s.Update(ctx, func(tx *Tx) error {
			if err := Put(tx, plain, fmt.Sprintf("left/%d", i), guest{Number: i}); err != nil {
				return err
			}
			return Put(tx, plain, fmt.Sprintf("right/%d", i), guest{Number: i})
		})
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func TestKilledProcessLosesNoAcknowledgedWriteAndNoHalfTransaction(t *testing.T) {
	t.Parallel()
	const rounds, writesPerRound = 3, 60
	dir := t.TempDir()
	acknowledged := -1
	for range rounds {
		acknowledged = max(acknowledged, writeAndKill(t, dir, writesPerRound))
	}
	s := openAt(t, dir)
	for i := range acknowledged + 1 {
		if _, ok := Lookup(s, plain, fmt.Sprintf("left/%d", i)); !ok {
			t.Fatalf("write %d of %d was acknowledged and is lost", i, acknowledged)
		}
	}
	if left, right := len(Prefixed(s, plain, "left/")), len(Prefixed(s, plain, "right/")); left != right {
		t.Errorf("half a transaction: %d left, %d right", left, right)
	}
}

// writeAndKill runs a writer, kills it after it has acknowledged some writes, and returns the greatest number acknowledged.
func writeAndKill(t *testing.T, dir string, writes int) (last int) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), crashDirVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // everything it wrote before it died has been read
		}
		if last, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
		if n == writes {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the writer was not killed but ended: %v", err)
	}
	return last
}
