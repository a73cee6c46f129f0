package kvm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// buryUnborn removes from libvirtd's memory the domains of ours that it had begun to start, or to receive, without having made a process yet. A libvirtd that
// died in those hundredths of a second would otherwise come back (9.0) with a domain that has no process and a job that has no owner: nobody can destroy,
// undefine or start it, and another restart of libvirtd does not help. dir is where libvirtd keeps its notes of running
// domains. It is called while libvirtd is away; if it is not away after all, it writes its note again as soon as there is a process.
func buryUnborn(dir string) (buried []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, namePrefix+"*.xml"))
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, file := range files {
		dead, err := unborn(file)
		if err == nil && dead {
			err = os.Remove(file)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // it ended meanwhile
		case err != nil:
			problems = append(problems, err)
		case dead:
			buried = append(buried, filepath.Base(file))
		}
	}
	return buried, errors.Join(problems...)
}

// unborn reports whether libvirtd's note is of a domain that has no process.
func unborn(file string) (bool, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	var note struct {
		XMLName xml.Name `xml:"domstatus"`
		PID     string   `xml:"pid,attr"`
	}
	if err := xml.Unmarshal(raw, &note); err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	return note.PID == "0", nil
}
