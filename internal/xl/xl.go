// Package xl runs Xen's own command for what only it can do: make a domain and
// end it. Facts about it were seen with xl of Xen 4.17.
package xl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xen"
)

// command is the program's name, looked up in PATH.
const command = "xl"

// maxSaid bounds what is kept of what xl says, in bytes.
const maxSaid = 64 << 10

// find says what to do where there is no xl.
func find() (string, error) {
	path, err := exec.LookPath(command)
	if err != nil {
		return "", errors.New("there is no xl in PATH, which makes and ends domains on real Xen: install Xen's tools (xen-utils in Debian), or give --host sim:DIR for an embedded host")
	}
	return path, nil
}

// run runs one command of xl and returns what it said, on either stream. It is
// not interrupted with us, as libxl leaves half a domain behind then; so it
// always ends by itself.
func run(args ...string) (said string, err error) {
	path, err := find()
	if err != nil {
		return "", err
	}
	// A file and not a pipe: the xl that stays behind to watch a new domain can
	// keep it open for as long as the domain lives.
	out, err := os.CreateTemp("", "xenchan-xl-")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C at a terminal is for us
	runErr := cmd.Run()
	text, err := io.ReadAll(io.NewSectionReader(out, 0, maxSaid))
	said = strings.TrimSpace(string(text))
	if runErr != nil {
		return said, fmt.Errorf("xl %s: %w%s", args[0], runErr, indented(said))
	}
	return said, err
}

// indented is xl's own words below a message.
func indented(said string) string {
	if said == "" {
		return ""
	}
	return "\n  " + strings.ReplaceAll(said, "\n", "\n  ")
}

// Console connects this process's terminal to a domain's primary console. It
// returns when it runs; wait returns when the person has left it.
func Console(ctx context.Context, id xen.DomID, stdin io.Reader, stdout, stderr io.Writer) (wait func() error, err error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "console", id.String())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Wait, nil
}
