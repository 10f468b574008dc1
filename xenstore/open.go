package xenstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	defaultSocket = "/var/run/xenstored/socket"
	defaultDevice = "/dev/xen/xenbus"
	legacyDevice  = "/proc/xen/xenbus"

	dialPause = 10 * time.Millisecond // longest pause before another connect
)

// OpenStream opens the raw stream of messages at path, and reports whether it is
// the xenbus device or a socket. For an empty path it tries, as libxenstore does,
// the path in $XENSTORED_PATH and nothing else, or, when that is not set,
// $XENSTORED_RUNDIR/socket (/var/run/xenstored/socket without that variable) and
// then the devices /dev/xen/xenbus and /proc/xen/xenbus. The error names each
// place and says what to do. Close on the stream wakes a blocked Read or Write.
func OpenStream(ctx context.Context, path string) (stream io.ReadWriteCloser, device bool, err error) {
	var failed openError
	for _, p := range searchPath(path, os.Getenv) {
		stream, device, err := openOne(ctx, p)
		if err == nil {
			return stream, device, nil
		}
		failed.paths = append(failed.paths, p)
		failed.errs = append(failed.errs, err)
	}
	return nil, false, &failed
}

func searchPath(path string, getenv func(string) string) []string {
	if path == "" {
		path = getenv("XENSTORED_PATH")
	}
	if path != "" {
		return []string{path}
	}
	socket := defaultSocket
	if dir := getenv("XENSTORED_RUNDIR"); dir != "" {
		socket = dir + "/socket"
	}
	return []string{socket, defaultDevice, legacyDevice}
}

// openOne opens what is at path, a socket or a device.
func openOne(ctx context.Context, path string) (stream io.ReadWriteCloser, device bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, reason(err)
	}
	switch info.Mode().Type() {
	case fs.ModeSocket:
		stream, err := dial(ctx, path)
		return stream, false, err
	case fs.ModeDevice | fs.ModeCharDevice:
	default:
		// /proc/xen/xenbus is a regular file by its mode; nothing else may be.
		if path != legacyDevice {
			return nil, false, errors.New("neither a socket nor a device")
		}
	}
	// Non-blocking, so that the runtime polls it and Close wakes a Read.
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, reason(err)
	}
	return f, true, nil
}

// dial connects to a socket. A listener whose queue is full, and oxenstored's
// holds but one or two, lets a blocking connect wait and fails ours with EAGAIN.
func dial(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, reason(err)
		}
		if err := pause(ctx, dialPause); err != nil {
			return nil, fmt.Errorf("the daemon does not accept connections: %w", err)
		}
	}
}

// reason takes the path out of an error, as openError has it already.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}

// openError is the outcome of each place that was tried.
type openError struct {
	paths []string
	errs  []error
}

func (e *openError) Error() string {
	var b strings.Builder
	b.WriteString("xenstore: cannot connect:")
	for i, p := range e.paths {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %s (%v)", p, e.errs[i])
	}
	b.WriteString("; " + e.hint())
	return b.String()
}

// Unwrap is the errors of all places.
func (e *openError) Unwrap() []error { return e.errs }

func (e *openError) hint() string {
	switch {
	case errors.Is(e, fs.ErrPermission):
		return "try again as root"
	case errors.Is(e, syscall.ECONNREFUSED):
		return "nobody serves this socket: start xenstored"
	case len(e.paths) == 1:
		return "check the path, and that xenstored runs"
	}
	return "is this a Xen domain, and does xenstored run? Set XENSTORED_PATH if its socket is elsewhere"
}
