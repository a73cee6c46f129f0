package labcloud

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/godwit-cloud/godwit/internal/lab"
)

// BinaryVariable is the environment variable that names a godwit program which is built already: tests that run side by side, or again and again, then use one.
const BinaryVariable = "GODWIT_BINARY"

// program is what Build builds.
const program = "github.com/godwit-cloud/godwit/cmd/godwit"

// Build returns the path of the godwit program under test: the one that BinaryVariable names, else one that it builds in dir.
func Build(ctx context.Context, dir string) (string, error) {
	if ready := os.Getenv(BinaryVariable); ready != "" {
		return ready, nil
	}
	path := filepath.Join(dir, "godwit")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, program).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// Test is what BringUp needs of a *testing.T. Programs that are no tests import this package too, so it does not import testing.
type Test interface {
	Helper()
	Log(args ...any)
	Error(args ...any)
	Fatal(args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// BringUp makes a furnished cloud for one test, in a lab of its own that ends with the test, and with this process whatever happens; a test that fails shows
// the lab's logs. Of o, Name is completed so that it is this process's, and Binary, Tethered and Progress are filled in.
func BringUp(ctx context.Context, t Test, o Options) *Fixture {
	t.Helper()
	say := func(line string) { t.Log(line) }
	var err error
	if o.Binary, err = Build(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if err := lab.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	o.Name, o.Tethered, o.Progress = fmt.Sprintf("%s-%d", o.Name, os.Getpid()), true, say
	c, err := Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Lab.Logs())
		}
		if err := c.Lab.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	f, err := Furnish(ctx, c, say)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
