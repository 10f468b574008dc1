package cli

import (
	"bytes"
	"io"
)

const (
	// escape is ^], which ends a terminal's connection as in xl console and telnet.
	escape = 0x1d
	// typedAhead is how many reads of a keyboard wait for a guest that does not
	// take them; what is typed then is answered with the bell, as by Linux.
	typedAhead = 256
)

// keyboard reads a terminal up to the escape character. It goes on looking for
// that while nobody takes what was typed, so that a guest that does not read
// cannot keep a person from leaving.
type keyboard struct {
	bell  io.Writer
	left  func() // called at the escape
	typed chan []byte
	rest  []byte
}

func newKeyboard(bell io.Writer, left func()) *keyboard {
	return &keyboard{bell: bell, left: left, typed: make(chan []byte, typedAhead)}
}

// run reads until the escape or the end of the terminal.
func (k *keyboard) run(terminal io.Reader) {
	defer close(k.typed)
	buf := make([]byte, 4<<10)
	for {
		n, err := terminal.Read(buf)
		keys, _, over := bytes.Cut(buf[:n], []byte{escape})
		if len(keys) > 0 {
			select {
			case k.typed <- bytes.Clone(keys):
			default:
				io.WriteString(k.bell, "\a")
			}
		}
		if over {
			k.left()
		}
		if over || err != nil {
			return
		}
	}
}

// Read gives what was typed and io.EOF after the escape. One goroutine may call it.
func (k *keyboard) Read(p []byte) (int, error) {
	for len(k.rest) == 0 {
		var ok bool
		if k.rest, ok = <-k.typed; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}
