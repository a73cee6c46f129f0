package disk

import (
	"errors"
	"os"
	"path/filepath"
)

// writeDurably gives a file its content as a whole: after a crash it has the old content or the new.
func writeDurably(path string, data []byte, mode os.FileMode) error {
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return commit(f, err, path)
}

// commit syncs and closes a temporary file and gives it its name. If err is not nil it removes the file instead and returns err.
func commit(f *os.File, err error, path string) error {
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
