package lab

import (
	"context"
	"errors"
	"fmt"
)

// Down removes the lab: its processes with all that lives in their namespaces, then its files. It works on whatever part of the lab
// there is and may be repeated.
func (l *Lab) Down(ctx context.Context) error {
	if err := Down(ctx, l.Name); err != nil {
		return err
	}
	l.children.Wait()
	l.tether.close()
	l.tether = nil
	return nil
}

// Down removes the named lab, whole or half-made. A lab that does not exist is no error.
func Down(ctx context.Context, name string) error {
	if name == "" {
		name = DefaultName
	}
	if err := checkName(name); err != nil {
		return err
	}
	return withLock(func() error {
		if err := killAll(ctx, name); err != nil {
			return fmt.Errorf("lab %s: %w", name, err)
		}
		if err := awaitDisksFree(ctx, dataDir(name)); err != nil {
			return fmt.Errorf("lab %s: %w", name, err)
		}
		return release(name)
	})
}

// killAll ends every node. An Up running in another process may start nodes meanwhile; it fails at the latest when its files are
// gone, and what it started by then is found by looking again.
func killAll(ctx context.Context, name string) error {
	const rounds = 5
	for range rounds {
		found, err := inits(name)
		if err != nil || len(found) == 0 {
			return err
		}
		var errs []error
		for _, p := range found {
			errs = append(errs, p.kill(ctx))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return errors.New("nodes keep appearing: is `lab up` still running?")
}

// Sweep removes the tethered labs whose makers are gone: what interrupted tests leave behind.
func Sweep(ctx context.Context) error {
	names, err := Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		st, err := readState(name)
		if err != nil || st.Owner == (process{}) || st.Owner.alive() {
			continue
		}
		errs = append(errs, Down(ctx, name))
	}
	return errors.Join(errs...)
}
