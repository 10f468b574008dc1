package cli

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// daemonConfig is the daemon's configuration file, in TOML.
type daemonConfig struct {
	Log struct {
		Level  slog.Level `toml:"level"`  // debug, info, warn or error
		Format string     `toml:"format"` // text or json
	} `toml:"log"`
	Channels struct {
		Dir string `toml:"dir"` // of the drop-in files
	} `toml:"channels"`
	Firewall struct {
		Dir string `toml:"dir"` // of the files of the agent firewall
	} `toml:"firewall"`
	Sandbox struct {
		Mode       string   `toml:"mode"` // best-effort, required or off
		SocketDirs []string `toml:"socket_dirs"`
	} `toml:"sandbox"`

	file    string // where it was read from; empty if nowhere
	verbose bool
}

// defaultSocketDirs are where people put the sockets of channels for xl: its own
// directories, libvirt's, and the ones for what does not outlive a boot.
var defaultSocketDirs = []string{"/run", "/var/lib/xen", "/var/lib/libvirt", "/tmp", "/var/tmp"}

// level is the level of the log.
func (c daemonConfig) level() slog.Level {
	if c.verbose {
		return slog.LevelDebug
	}
	return c.Log.Level
}

const daemonConfigHelp = `The configuration file is TOML. All of it is optional:

  [log]
  level = "info"    # debug, info, warn or error
  format = "text"   # or json

  [channels]
  dir = "/etc/xenchan/channels.d"   # of the drop-in files

  [firewall]
  dir = "/etc/xenchan/firewall.d"   # who may ask guest agents what

  [sandbox]         # what the daemon gives up when it has started
  mode = "best-effort"   # all that the kernel has; required: or do not start; off
  socket_dirs = ["/run", "/var/lib/xen", "/var/lib/libvirt", "/tmp", "/var/tmp"]
                    # where "path" of a channel may be; a channel with another one
                    # is not served, and "xenchan list" says why

With --verbose the level is debug.`

// readDaemonConfig reads a configuration file; no file is the defaults. A key
// that is not known is an error, since whoever wrote it meant something.
func readDaemonConfig(path string) (daemonConfig, error) {
	var c daemonConfig
	c.Log.Format, c.Sandbox.Mode, c.Sandbox.SocketDirs = "text", bestEffort, defaultSocketDirs
	if path == "" {
		return c, nil
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return c, usageError{err}
	}
	d := toml.NewDecoder(bytes.NewReader(src))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, usagef("%s", tomlError(path, err))
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return c, usagef("%s: log.format is %q; give text or json", path, c.Log.Format)
	}
	if c.Channels.Dir != "" && !filepath.IsAbs(c.Channels.Dir) {
		return c, usagef("%s: channels.dir is %q; give an absolute path", path, c.Channels.Dir)
	}
	if c.Firewall.Dir != "" && !filepath.IsAbs(c.Firewall.Dir) {
		return c, usagef("%s: firewall.dir is %q; give an absolute path", path, c.Firewall.Dir)
	}
	if !slices.Contains(sandboxModes, c.Sandbox.Mode) {
		return c, usagef("%s: sandbox.mode is %q; give %s", path, c.Sandbox.Mode, strings.Join(sandboxModes, ", "))
	}
	for _, dir := range c.Sandbox.SocketDirs {
		if !filepath.IsAbs(dir) {
			return c, usagef("%s: sandbox.socket_dirs has %q; begin it with /", path, dir)
		}
	}
	return c, nil
}

// tomlError is an error with its place and the lines around it.
func tomlError(path string, err error) string {
	var unknown *toml.StrictMissingError
	var decode *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("%s: unknown keys:\n%s", path, unknown.String())
	case errors.As(err, &decode):
		line, col := decode.Position()
		return fmt.Sprintf("%s:%d:%d: %v\n%s", path, line, col, err, decode.String())
	}
	return fmt.Sprintf("%s: %v", path, err)
}
