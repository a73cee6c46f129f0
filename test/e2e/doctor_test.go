package e2e

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestTheDoctorSeesAllWaysOpenAndOneThatIsClosed: real libvirt with TLS between every two hosts; then one host drops what goes to its libvirt, and as a host
// that connects has everybody look again, its agent is started anew.
func TestTheDoctorSeesAllWaysOpenAndOneThatIsClosed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	awaitDoctor(ctx, t, "all is open", map[string]string{"ways": "6 of 6 are open", "certificates": "good on 3 hosts", "clocks": "no two are more than"}, "ok")
	drop := func(ctx context.Context, what string) error {
		_, err := on(ctx, there, "ip", "rule", what, "ipproto", "tcp", "sport", "16514", "blackhole")
		return err
	}
	if err := drop(ctx, "add"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(context.Background(), "del"); err != nil {
			t.Error(err)
		}
	})
	killUnit(ctx, t, there, lab.UnitAgent)
	awaitDoctor(ctx, t, "a closed way", map[string]string{here + " to " + there: "closed: libvirt with TLS", "compute-3 to " + there: "closed: libvirt with TLS"}, "problem")
}

// awaitDoctor waits until the doctor says of each subject what begins so, at the level.
func awaitDoctor(ctx context.Context, t *testing.T, what string, want map[string]string, level string) {
	t.Helper()
	var out []byte
	err := labcloud.Until(ctx, what, func() (bool, error) {
		cmd := exec.CommandContext(ctx, godwit, "doctor", "-o", "json")
		cmd.Env = cloud.Env
		out, _ = cmd.Output() // an error: it found a problem
		var all []struct{ Level, Subject, Text string }
		if json.Unmarshal(out, &all) != nil {
			return false, nil
		}
		said := 0
		for _, f := range all {
			if begin, ok := want[f.Subject]; ok && f.Level == level && strings.HasPrefix(f.Text, begin) {
				said++
			}
		}
		return said == len(want), nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
