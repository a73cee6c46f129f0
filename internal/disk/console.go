package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// ConsoleBytesMax is how much of a server's console is kept and carried to its next host: some thousand lines.
	ConsoleBytesMax = 512 << 10
	// consoleTrimAt is the length from which the live log loses its beginning. It is well above what is kept, so trimming is rare.
	consoleTrimAt = 4 << 20
	// consoleTrimUnit is what collapsing a file's range must be a multiple of on every file system that can do it.
	consoleTrimUnit = 1 << 20
)

// Console returns the end of all that the server's console printed, earlier hosts included: the last lines of it, or all that is kept if
// lines <= 0. No console is empty.
func (s *Store) Console(id cloud.ServerID, lines int) ([]byte, error) {
	f, err := s.Files(id)
	if err != nil {
		return nil, err
	}
	live, err := tail(f.Console, ConsoleBytesMax)
	if err != nil {
		return nil, fmt.Errorf("server %s: console: %w", id, err)
	}
	if room := ConsoleBytesMax - len(live); room > 0 {
		past, err := tail(f.past, int64(room))
		if err != nil {
			return nil, fmt.Errorf("server %s: console: %w", id, err)
		}
		live = append(past, live...)
	}
	return lastLines(live, lines), nil
}

// SetPast stores what the server's console printed on earlier hosts. Calling again replaces it.
func (s *Store) SetPast(id cloud.ServerID, past []byte) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if len(past) > ConsoleBytesMax {
		past = past[len(past)-ConsoleBytesMax:]
	}
	if err := writeDurably(f.past, past, 0o600); err != nil {
		return fmt.Errorf("server %s: console history: %w", id, err)
	}
	return nil
}

// TrimConsole takes the beginning off a console log that has grown long. QEMU appends to it all the while, so the file is neither
// rewritten nor replaced: its first blocks are taken out (or, where the file system cannot, made a hole).
func (s *Store) TrimConsole(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(f.Console, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("server %s: console: %w", id, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() < consoleTrimAt {
		return err
	}
	cut := (info.Size() - ConsoleBytesMax) / consoleTrimUnit * consoleTrimUnit
	err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, cut)
	if err != nil {
		err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, cut)
	}
	if err != nil {
		return fmt.Errorf("server %s: trim console: %w", id, err)
	}
	return nil
}

// tail reads the last bytesMax bytes of a file, none if there is no file.
func tail(path string, bytesMax int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(info.Size()-bytesMax, 0)
	return io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
}

func lastLines(text []byte, lines int) []byte {
	if lines <= 0 {
		return text
	}
	at := len(text)
	if at > 0 && text[at-1] == '\n' {
		at-- // the newline that ends the last line begins none
	}
	for range lines {
		if at = bytes.LastIndexByte(text[:at], '\n'); at < 0 {
			return text
		}
	}
	return text[at+1:]
}
