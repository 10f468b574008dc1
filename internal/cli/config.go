package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/xenchan/xenchan/channel/xlcfg"
)

// domainConfig is what a domain's configuration file says about channels.
type domainConfig struct {
	name, uuid string
	channels   []xlcfg.Located
	warnings   []xlcfg.Warning
}

// readConfig reads a domain's configuration and reports all that is wrong with
// it with its place. What is only surprising is left to the caller.
func (a *app) readConfig(path string) (domainConfig, error) {
	src, err := readFile(path)
	if err != nil {
		return domainConfig{}, usageError{err}
	}
	file, err := xlcfg.Parse(path, src)
	if err != nil {
		return domainConfig{}, a.reportErrors(err)
	}
	channels, warnings, err := xlcfg.Channels(file)
	if err != nil {
		return domainConfig{}, a.reportErrors(err)
	}
	c := domainConfig{channels: channels, warnings: warnings}
	var nameErr, uuidErr error
	c.name, nameErr = file.DomainName()
	c.uuid, uuidErr = file.DomainUUID()
	if err := errors.Join(nameErr, uuidErr); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// readFile reads a whole file, but not much more than the parser would accept.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory, not a domain configuration", path)
	}
	src, err := io.ReadAll(io.LimitReader(f, xlcfg.MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(strings.TrimSpace(string(src[:min(len(src), 4096)])), "<") {
		return nil, fmt.Errorf("%s: this looks like libvirt XML, which this version does not read; give an xl.cfg (`virsh domxml-to-native xen-xl` makes one)", path)
	}
	return src, nil
}

// reportErrors prints each error of a file with the line it is on.
func (a *app) reportErrors(err error) error {
	var all xlcfg.Errors
	if !errors.As(err, &all) {
		return usageError{err}
	}
	for _, e := range all {
		a.warn("%s", e.Error())
		fmt.Fprint(a.stderr, e.Snippet())
	}
	return usageError{errSilent}
}

// orFileName is a domain's name, or one made of the file's name.
func (c domainConfig) orFileName(path string) string {
	if c.name != "" {
		return c.name
	}
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}
