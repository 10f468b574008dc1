package firewall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// sentinel is the byte that makes the other side's parser start anew.
const sentinel = 0xFF

// What a message may be made of. QEMU's parser gives up one that is deeper than 1024
// or has more than two million parts, and takes what follows, in the middle of a
// line, for another message (qobject/json-streamer.c). So both bounds are far below.
const (
	maxDepth = 64
	maxParts = 200_000
)

// request is one line of a client.
type request struct {
	command string
	// sync is the number of a guest-sync or guest-sync-delimited.
	sync      int64
	isSync    bool
	delimited bool
}

var errNotOne = errors.New(`a line must be one request as {"execute":"guest-ping"}`)

// parseRequest reads a line without its end. It accepts less than the agent does, so
// that the agent has no other idea of what the line says.
func parseRequest(line []byte) (request, error) {
	var q request
	members, err := object(line, "execute", "arguments", "id")
	if err != nil {
		return q, err
	}
	if json.Unmarshal(members["execute"], &q.command) != nil || !isName(q.command) {
		return q, errNotOne
	}
	q.delimited = q.command == "guest-sync-delimited"
	q.isSync = q.delimited || q.command == "guest-sync"
	if q.isSync {
		arguments, err := object(members["arguments"], "id")
		if err == nil {
			q.sync, err = number(arguments["id"])
		}
		if err != nil {
			return q, fmt.Errorf("%s needs a number: \"arguments\":{\"id\":1}", q.command)
		}
	}
	return q, nil
}

// isName says that a text can be a command: nothing that needs care anywhere.
func isName(s string) bool {
	return s != "" && len(s) <= maxWord && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// reply is one line of a guest.
type reply struct {
	value   json.RawMessage // of "return"; nil for an error
	refused bool
}

// parseReply reads a line without its end; ok is false if it is no reply.
func parseReply(line []byte) (r reply, ok bool) {
	members, err := object(line, "return", "error", "id")
	if err != nil {
		return r, false
	}
	value, isValue := members["return"]
	wrong, isError := members["error"]
	if isValue == isError {
		return r, false
	}
	if isError {
		text, err := object(wrong, "class", "desc")
		var s string
		ok := err == nil && json.Unmarshal(text["class"], &s) == nil && json.Unmarshal(text["desc"], &s) == nil
		return reply{refused: true}, ok
	}
	return reply{value: value}, true
}

// is says that a reply is the answer to a sync.
func (r reply) is(id int64) bool {
	got, err := number(r.value)
	return err == nil && got == id
}

// number is an integer; null is none.
func number(value json.RawMessage) (n int64, err error) {
	if err := json.Unmarshal(value, &n); err != nil || value[0] == 'n' {
		return 0, errNotOne
	}
	return n, nil
}

// object is the members of a JSON object, each of which is among keys, once, and
// written exactly so.
func object(text []byte, keys ...string) (map[string]json.RawMessage, error) {
	if !utf8.Valid(text) || !flat(text) || !json.Valid(text) {
		return nil, errNotOne
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errNotOne
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		key, _ := t.(string)
		if _, again := members[key]; err != nil || again || !slices.Contains(keys, key) {
			return nil, fmt.Errorf("%q makes no sense in a request: %w", key[:min(len(key), maxWord)], errNotOne)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotOne
		}
		members[key] = value
	}
	return members, nil
}

// flat says that a text is neither too deep nor of too many parts.
func flat(text []byte) bool {
	depth, parts, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted:
			if c == '\\' {
				i++
			}
			quoted = c != '"'
			continue
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c != ',' && c != ':':
			continue
		}
		if parts++; depth > maxDepth || parts > maxParts {
			return false
		}
	}
	return true
}

// refusal is an error as the agent would send it.
func refusal(format string, a ...any) []byte {
	line, _ := json.Marshal(map[string]any{"error": map[string]string{"class": "GenericError", "desc": "xenchan: " + fmt.Sprintf(format, a...)}}) // of strings
	return append(line, '\n')
}

// lines cuts a stream into lines of bounded length.
type lines struct {
	max  int
	buf  []byte
	over bool // the line is too long: what comes of it is dropped
}

// feed gives each line that ends in p to f, with its end, and from its last sentinel
// on. Of a line that is too long it gives none of the bytes. f must not keep it.
func (l *lines) feed(p []byte, f func(line []byte, tooLong bool)) {
	for len(p) > 0 {
		end := len(p)
		for i, c := range p {
			if c == '\n' || c == sentinel {
				end = i
				break
			}
		}
		l.add(p[:end])
		if end == len(p) {
			return
		}
		if p[end] == sentinel {
			l.reset()
		}
		l.add(p[end : end+1])
		if p[end] == '\n' {
			f(l.buf, l.over)
			l.reset()
		}
		p = p[end+1:]
	}
}

func (l *lines) add(p []byte) {
	if l.over = l.over || len(l.buf)+len(p) > l.max; l.over {
		l.buf = nil
		return
	}
	l.buf = append(l.buf, p...)
}

// reset forgets the line, and gives back the memory of a long one.
func (l *lines) reset() {
	l.over = false
	if l.buf = l.buf[:0]; cap(l.buf) > 64<<10 {
		l.buf = nil
	}
}
