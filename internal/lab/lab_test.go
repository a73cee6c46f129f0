package lab_test

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/lab/labtest"
)

func TestBareHostsAnswerVirsh(t *testing.T) {
	l := labtest.Bare(t, 2)
	for _, node := range l.ComputeNodes() {
		out, err := l.Output(t.Context(), node, "virsh", "-c", "qemu:///system", "nodeinfo")
		if err != nil {
			t.Fatal(err)
		}
		t.Log(out)
	}
}
