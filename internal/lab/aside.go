package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// startAside starts `godwit lab VERB LAB`, a process that serves a lab from outside its nodes and ends with the lab's switch. What it says is in VERB.log.
func (l *Lab) startAside(verb string) error {
	out, err := os.OpenFile(filepath.Join(nodeRunDir(l.Name, Switch), verb+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(binaryFile(l.Name), "lab", verb, l.Name)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("lab %s: %w", verb, err)
	}
	l.children.Go(func() { cmd.Wait() }) // how it ended is in its log; this only reaps
	return nil
}
