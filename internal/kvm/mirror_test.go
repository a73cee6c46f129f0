package kvm

import (
	"errors"
	"slices"
	"testing"
)

func TestOnlyAMirrorsNameMeansThatOneWasForgotten(t *testing.T) {
	for text, want := range map[string]bool{
		"internal error: unable to execute QEMU command 'blockdev-add': Duplicate nodes with node-name='migration-vda-storage'": true,
		"internal error: unable to execute QEMU command 'blockdev-add': Duplicate nodes with node-name='libvirt-2-storage'":     false,
		"internal error: client socket is closed": false,
	} {
		if got := forgottenMirror(errors.New(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if forgottenMirror(nil) {
		t.Error("a migration that succeeded has forgotten nothing")
	}
}

func TestMirrorsAreRemovedFromTheTopAndNothingElseIs(t *testing.T) {
	reply := `{"return":[{"node-name":"libvirt-1-format"},{"node-name":"migration-vda-storage"},{"node-name":"#block123"},
		{"node-name":"migration-vdb-storage"},{"node-name":"migration-vda-format"},{"node-name":"migration-vdb-format"}],"id":"libvirt-9"}`
	got, err := mirrorNodes(reply)
	want := []string{"migration-vda-format", "migration-vda-storage", "migration-vdb-format", "migration-vdb-storage"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if _, err := mirrorNodes(`{"id":"libvirt-9","error":{"class":"GenericError","desc":"no"}}`); err == nil {
		t.Error("QEMU's refusal was taken for an answer")
	}
}
