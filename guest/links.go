package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// link makes dir hold exactly the links of want, from name to terminal, and the
// aliases beside it. Links appear whole, under their name.
func link(dir string, want map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, alias := range aliases {
		err := os.Symlink(filepath.Base(dir), filepath.Join(filepath.Dir(dir), alias))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		tty, err := os.Readlink(path)
		if err != nil {
			continue // somebody else's
		}
		if _, ok := want[e.Name()]; !ok || e.Name()[0] == '.' {
			err = os.Remove(path)
		} else if want[e.Name()] == tty {
			delete(want, e.Name())
		}
		if err != nil {
			return err
		}
	}
	for name, tty := range want {
		path, temp := filepath.Join(dir, name), filepath.Join(dir, ".new")
		if err := errors.Join(os.Symlink(tty, temp), os.Rename(temp, path)); err != nil {
			return err
		}
	}
	return nil
}

// unlink removes the links of dir that lead elsewhere than to these terminals.
func unlink(dir string, live map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if tty, err := os.Readlink(path); err != nil || live[tty] {
			continue // somebody else's, or right
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
