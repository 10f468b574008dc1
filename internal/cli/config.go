package cli

import (
	"errors"
	"fmt"
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
	file, err := a.parseConfig(path)
	if err != nil {
		return domainConfig{}, err
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

func (a *app) parseConfig(path string) (*xlcfg.File, error) {
	src, err := a.readFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	file, err := xlcfg.Parse(path, src)
	if err != nil {
		return nil, a.reportErrors(err)
	}
	return file, nil
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
