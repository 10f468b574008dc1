package mdata

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
)

// ErrIgnore is returned by a [Source] for a question that is not to be answered.
var ErrIgnore = errors.New("no answer")

// Source is what a server has. Its methods are called one at a time, with whatever a
// guest sends. The guest is told the text of their errors.
type Source interface {
	// Get is the value of a key. live says that the client has negotiated over this
	// connection, so that somebody waits for the answer: a question that has
	// waited for a server may be of one that has given up.
	Get(key string, live bool) (value []byte, found bool, err error)
	// Keys are the names that clients may want to know.
	Keys() []string
	// Put takes at most [MaxPut] bytes.
	Put(key string, value []byte) error
	Delete(key string) error
}

// Server answers a guest.
type Server struct {
	Source Source
	// Passed, if not nil, is called with why a line got no answer.
	Passed func(why error)
}

// Serve answers what comes over conn until it fails, and returns that error, or nil
// at its end. To stop it, close conn. It keeps one line in memory, and reads the
// next one when the answer is written.
func (s *Server) Serve(conn io.ReadWriter) error {
	r := bufio.NewReaderSize(conn, 4<<10)
	var line, answer []byte
	live := false
	for {
		var err error
		line, err = readLine(r, line, maxRequest)
		switch {
		case errors.Is(err, errTooLong):
			s.pass(err)
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		live = live || string(line) == lineNegotiate
		answer = s.answer(answer[:0], line, live)
		if len(answer) == 0 {
			continue
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

func (s *Server) pass(why error) {
	if s.Passed != nil {
		s.Passed(why)
	}
}

// answer appends the answer to a line, if it gets one. None may get one that the
// server itself says: a terminal that echoes sends all of it back.
func (s *Server) answer(b, line []byte, live bool) []byte {
	switch {
	case len(line) == 0:
		return append(b, lineInvalid+"\n"...)
	case string(line) == lineNegotiate:
		return append(b, lineV2+"\n"...)
	case bytes.HasPrefix(line, []byte("NEGOTIATE ")):
		return append(b, lineFailure+"\n"...)
	}
	q, err := parse(line)
	if err == nil {
		var a frame
		if a, err = s.reply(q, live); err == nil {
			return a.appendTo(b)
		}
	}
	s.pass(err)
	return b
}

// reply is the answer to a frame.
func (s *Server) reply(q frame, live bool) (frame, error) {
	var value []byte
	var err error
	found := true
	switch q.word {
	case wordGet:
		value, found, err = s.Source.Get(string(q.payload), live)
	case wordKeys:
		value = []byte(strings.Join(slices.Sorted(slices.Values(s.Source.Keys())), "\n"))
	case wordPut:
		value = []byte("OK")
		key, data, bad := decodePut(q.payload)
		if err = bad; err == nil && len(data) > MaxPut {
			err = errors.New("the value is too long")
		}
		if err == nil {
			err = s.Source.Put(key, data)
		}
	case wordDelete:
		value, err = []byte("OK"), s.Source.Delete(string(q.payload))
	case wordSuccess, wordNotFound, wordFailure:
		return frame{}, errNoFrame // an echo of ours
	default:
		err = errors.New("unknown command")
	}
	switch {
	case errors.Is(err, ErrIgnore):
		return frame{}, err
	case err != nil:
		return frame{q.id, wordFailure, []byte(err.Error())}, nil
	case !found:
		return frame{q.id, wordNotFound, nil}, nil
	}
	return frame{q.id, wordSuccess, value}, nil
}
