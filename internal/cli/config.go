package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xenchan/xenchan/channel/convert"
	"github.com/xenchan/xenchan/channel/domcfg"
	"github.com/xenchan/xenchan/channel/xlcfg"
)

// domainConfig is what a domain's configuration file says about channels.
type domainConfig struct {
	form       convert.Form
	name, uuid string
	channels   []domcfg.Located
	warnings   []domcfg.Warning
}

// readConfig reads a domain's configuration and reports all that is wrong with
// it with its place. What is only surprising is left to the caller. Further lines
// are arguments as xl create takes them, which count as the file's last.
func (a *app) readConfig(path string, lines ...string) (domainConfig, error) {
	file, err := a.parseConfig(path, lines...)
	if err != nil {
		return domainConfig{}, err
	}
	channels, warnings, err := file.Channels()
	if err != nil {
		return domainConfig{}, a.reportErrors(err)
	}
	c := domainConfig{form: file.Form, channels: channels, warnings: warnings}
	var nameErr, uuidErr error
	c.name, nameErr = file.DomainName()
	c.uuid, uuidErr = file.DomainUUID()
	if err := errors.Join(nameErr, uuidErr); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// parseConfig reads a domain's configuration of any form, and further lines of an xl.cfg.
func (a *app) parseConfig(path string, lines ...string) (*convert.File, error) {
	src, err := a.readFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	if len(lines) > 0 {
		if form := convert.FormOf(src); form != convert.XL {
			return nil, usagef("%s: %q is for an xl.cfg", path, lines[0])
		}
		appended := []byte(strings.Join(lines, "\n") + "\n")
		if _, err := xlcfg.Parse("(arguments)", appended); err != nil { // with a place that one can find
			return nil, a.reportErrors(err)
		}
		src = slices.Concat(src, []byte("\n"), appended)
	}
	file, err := convert.Parse(path, src)
	if err != nil {
		return nil, a.reportErrors(err)
	}
	return file, nil
}

// reportErrors prints each error of a file with the line it is on.
func (a *app) reportErrors(err error) error {
	var all domcfg.Errors
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
