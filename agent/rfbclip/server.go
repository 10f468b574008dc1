package rfbclip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Server is the host's end. It is not safe for concurrent use, but that Send may be
// called beside Next.
type Server struct {
	r reader
	w io.Writer
}

// NewServer makes the host's end of a channel.
func NewServer(rw io.ReadWriter) *Server {
	return &Server{reader{r: bufio.NewReader(rw), begins: clientHello}, rw}
}

// Greet shakes hands, and drops what the guest has said before. When it was broken off,
// by a deadline, say, because the guest was not there yet, it can be called again.
func (s *Server) Greet() error {
	if _, err := s.w.Write(hello); err != nil {
		return err
	}
	_, err := s.r.find(clientHello)
	return err
}

// Next is the next text that the guest gives. Of what else an RFB client may say, as a
// viewer does, it takes no notice, and skips what it cannot say up to its next answer to
// a greeting.
func (s *Server) Next() (string, error) {
	for {
		kind, err := s.r.readByte()
		if err != nil {
			return "", err
		}
		var n int
		switch kind {
		case clientCutText:
			var text string
			if text, err = s.r.cutText(); err == nil {
				return text, nil
			}
		case setPixelFormat:
			err = s.r.skip(19)
		case setEncodings:
			if err = s.r.skip(1); err == nil {
				if n, err = s.r.count(2); err == nil {
					err = s.r.skip(4 * n)
				}
			}
		case updateRequest:
			err = s.r.skip(9)
		case keyEvent:
			err = s.r.skip(7)
		case pointerEvent:
			err = s.r.skip(5)
		default: // an answer, too, when it was greeted twice
			err = fmt.Errorf("%w: message %d", errOutOfStep, kind)
		}
		if errors.Is(err, errOutOfStep) {
			_, err = s.r.find(clientHello)
		}
		if err != nil && !errors.Is(err, errHandshake) {
			return "", err
		}
	}
}

// Send puts text into the guest's clipboard.
func (s *Server) Send(text string) error { return writeText(s.w, serverCutText, text) }
