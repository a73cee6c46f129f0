package cloud

import "testing"

func TestHostsShareADirectoryWhenOneReadsWhatTheOtherKeepsWriting(t *testing.T) {
	wrote := &SharedStorage{Nonce: "a1 100"}
	for seen, want := range map[string]bool{
		"a1 100": true, "a1 95": true, "a1 103": true, // reports are not of the same moment
		"a1 50":  false, // a copy that does not keep up
		"b2 100": false, "": false, "a1": false, "a1 x": false,
	} {
		reader := &SharedStorage{Seen: map[HostName]string{"one": seen}}
		if Shares("one", wrote, reader) != want {
			t.Errorf("wrote %q, seen %q: want %v", wrote.Nonce, seen, want)
		}
	}
	if Shares("one", nil, wrote) || Shares("one", wrote, nil) || Shares("one", &SharedStorage{}, &SharedStorage{}) {
		t.Error("hosts that said nothing share nothing")
	}
}
