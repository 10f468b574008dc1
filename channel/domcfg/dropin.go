package domcfg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"
)

const (
	// MaxDropIn is the largest drop-in file that is read, in bytes.
	MaxDropIn = 256 << 10
	// dropInSuffix is how the names of drop-in files end; others are left alone.
	dropInSuffix = ".toml"
	// maxPattern is more than any domain's name or uuid has, in bytes.
	maxPattern = 255
)

// ReadDropIns gives each drop-in file of a directory to parse, by its full name and
// in the order of their names. A directory that does not exist has none. What is
// wrong with files, [Errors] of parse or any other, is returned by their names; the
// error is about the directory.
func ReadDropIns(dir string, parse func(file string, src []byte) error) (broken map[string]Errors, err error) {
	broken = make(map[string]Errors)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("drop-in files: %w", err)
	}
	for _, e := range entries { // sorted by name
		name := e.Name()
		if !strings.HasSuffix(name, dropInSuffix) || strings.HasPrefix(name, ".") {
			continue
		}
		full := filepath.Join(dir, name)
		src, err := readDropIn(full)
		if errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0 {
			continue // it has just gone
		}
		if err == nil {
			err = parse(full, src)
		}
		var bad Errors
		switch {
		case errors.As(err, &bad):
			broken[name] = bad
		case err != nil:
			broken[name] = Errors{{Message: Message{File: full, Line: 1, Col: 1, What: "cannot be read", Why: err.Error()}}}
		}
	}
	return broken, nil
}

// readDropIn reads a regular file of a sane size, and waits for nobody.
func readDropIn(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, MaxDropIn+1))
	if err == nil && len(src) > MaxDropIn {
		err = fmt.Errorf("it has more than %d bytes", MaxDropIn)
	}
	return src, err
}

// MatchDomain reports whether a pattern means a domain: by its name, its uuid, or as
// [path.Match] has it. An empty name or uuid is unknown.
func MatchDomain(pattern, name, uuid string) bool {
	if name != "" && pattern == name || uuid != "" && strings.EqualFold(pattern, uuid) {
		return true
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil && name != ""
}

// CheckPattern says what is wrong with a pattern of domains; what is empty if nothing is.
func CheckPattern(text string) (what, why, fix string) {
	_, err := path.Match(text, "")
	switch {
	case text == "":
		return "match is empty", "no domain has an empty name", `name a domain, or give "*" for all`
	case len(text) > maxPattern:
		return fmt.Sprintf("match has %d bytes", len(text)), fmt.Sprintf("at most %d are allowed", maxPattern), ""
	case strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Sprintf("match %q has a control character", text), "", ""
	case err != nil:
		return fmt.Sprintf("match %q is no pattern", text), `a [ has no ], or a \ nothing after it`, `write '\[' for the character itself`
	}
	return "", "", ""
}
