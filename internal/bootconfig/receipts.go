package bootconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/toolstack"
)

// Receipt says that a secret was given to a domain.
type Receipt struct {
	Time   time.Time `json:"time"`
	Domain string    `json:"domain"`
	DomID  uint16    `json:"domid"`
	UUID   string    `json:"uuid"`
	Key    string    `json:"key"`
}

// Receipts are kept in a directory, a file for each domain, by its uuid. They may be
// used by several processes at once.
type Receipts struct{ Dir string }

var uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// IsUUID reports whether text is written as a domain's uuid.
func IsUUID(text string) bool { return uuidForm.MatchString(text) }

// lockPatience is how long another process may have the receipts of a domain.
const lockPatience = 5 * time.Second

func (r Receipts) path(d toolstack.Domain) (string, error) {
	if !IsUUID(d.UUID) {
		return "", fmt.Errorf("%v has no uuid in xenstore, by which receipts are kept", d)
	}
	return filepath.Join(r.Dir, d.UUID+".json"), nil
}

// List is what a domain was given, the first first.
func (r Receipts) List(d toolstack.Domain) ([]Receipt, error) {
	path, err := r.path(d)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Receipt
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s is damaged, so that no secret is given: mend it, or remove it to give all secrets again: %w", path, err)
	}
	return all, nil
}

// Take writes the receipt for a secret, on stable storage, and reports whether there
// was none before: only then the secret is given.
func (r Receipts) Take(ctx context.Context, d toolstack.Domain, key string) (first bool, err error) {
	err = r.change(ctx, d, func(all []Receipt) []Receipt {
		if slices.ContainsFunc(all, func(r Receipt) bool { return r.Key == key }) {
			return all
		}
		first = true
		return append(all, Receipt{time.Now().UTC().Truncate(time.Millisecond), d.Name, uint16(d.ID), d.UUID, key})
	})
	return first, err
}

// Forget removes the receipt for a secret, so that it will be given once more.
func (r Receipts) Forget(ctx context.Context, d toolstack.Domain, key string) (found bool, err error) {
	err = r.change(ctx, d, func(all []Receipt) []Receipt {
		kept := slices.DeleteFunc(slices.Clone(all), func(r Receipt) bool { return r.Key == key })
		found = len(kept) < len(all)
		return kept
	})
	return found, err
}

// change changes the receipts of a domain, beside which nobody else does.
func (r Receipts) change(ctx context.Context, d toolstack.Domain, f func([]Receipt) []Receipt) error {
	path, err := r.path(d)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return err
	}
	lock, err := r.lock(ctx, path)
	if err != nil {
		return err
	}
	defer lock.Close()
	all, err := r.List(d)
	if err != nil {
		return err
	}
	changed := f(all)
	if len(changed) == len(all) {
		return nil
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	if err := e.Encode(changed); err != nil {
		return err
	}
	return sys.ReplaceFile(path, text.Bytes())
}

func (r Receipts) lock(ctx context.Context, path string) (*os.File, error) {
	for end := time.Now().Add(lockPatience); ; {
		f, err := sys.LockFile(path + ".lock")
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return f, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
