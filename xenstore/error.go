package xenstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// ErrClosed is in the errors of a Store or a Watch that its owner has closed.
var ErrClosed = errors.New("closed")

// Error is a request that was refused, by the daemon, by the kernel or, before
// it was sent, by this package. It unwraps to the errno, so that
// errors.Is(err, fs.ErrNotExist) and errors.Is(err, syscall.EAGAIN) work.
type Error struct {
	Op     wire.Type     // the request
	Path   string        // what it was about: a path, a domid, or nothing
	Errno  syscall.Errno // why, by the protocol's errors (io/xs_wire.h)
	Detail string        // what exactly is wrong, if it is known
}

// Error is such as "xenstore: read /local/domain/9/name: no such file or directory".
func (e *Error) Error() string {
	s := describe(e.Op, e.Path) + ": " + e.Errno.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap is the errno.
func (e *Error) Unwrap() error { return e.Errno }

// describe names a request in error texts. What is not a path is quoted, as it
// may hold anything.
func describe(op wire.Type, path string) string {
	s := "xenstore: " + strings.ReplaceAll(strings.ToLower(op.String()), "_", " ")
	switch {
	case path == "":
		return s
	case checkPath(path, true) != nil:
		return s + " " + strconv.Quote(path)
	}
	return s + " " + path
}

// opError makes an errno that came as an answer into an [Error], and puts the
// request's name in front of any other error.
func opError(op wire.Type, path string, err error) error {
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // only a bare errno is an answer
		return &Error{Op: op, Path: path, Errno: errno}
	}
	return fmt.Errorf("%s: %w", describe(op, path), err)
}

// malformed is the error for a reply that does not have the form it should.
func malformed(op wire.Type, path string, payload []byte) error {
	const show = 40
	more := ""
	if len(payload) > show {
		payload, more = payload[:show], "…"
	}
	return &Error{
		Op: op, Path: path, Errno: syscall.EPROTO,
		Detail: fmt.Sprintf("malformed reply %q%s", payload, more),
	}
}
